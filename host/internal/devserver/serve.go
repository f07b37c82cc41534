package devserver

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/api"
	"github.com/cape-functions/cape/host/internal/enclaves"
	"github.com/cape-functions/cape/host/internal/gateway"
	"github.com/cape-functions/cape/host/internal/kek"
	"github.com/cape-functions/cape/host/internal/serving"
	"github.com/cape-functions/cape/host/internal/store/link"
)

const (
	// maxConnections bounds the client connections at once.
	maxConnections = 20_000
	// maxPerClient bounds those of one other machine that need not be sessions yet.
	maxPerClient = 256
	// lastCalls is how long plain calls may take to end when the platform stops.
	lastCalls = 500 * time.Millisecond
)

// serve runs the enclave and the API until ctx is done.
func (p *platform) serve(ctx context.Context, l net.Listener, key *kek.Key) error {
	files := &clientFiles{
		dir: p.opts.DataDir, url: p.url(l), tls: p.opts.TLS, rootDER: p.cloud.Authority().RootDER(), rootPEM: p.cloud.Authority().RootPEM(),
		trust: key.Trust, policy: key.Policy, kms: key.ARN, users: p.users, now: time.Now,
	}
	boot := link.Boot{Message: p.serveMessage(key)}
	if p.opts.TLS {
		ca, err := p.authorityTLS()
		if err != nil {
			return err
		}
		if l, err = withTLS(l, ca, p.host()); err != nil {
			return err
		}
		if p.opts.EnclaveTLS {
			boot.Certify = p.certify(ca)
		}
	}
	k, err := enclaves.Start(ctx, enclaves.Config{
		Launcher: p.launcher, Spec: p.spec(boot), Log: p.log,
		Up: func(r wire.Release) error { return files.write(ctx, r) },
	})
	if err != nil {
		return err
	}
	p.onClose(k.Close)
	renewing, stop := context.WithCancel(ctx)
	defer stop()
	go files.renewLogin(renewing, p.log)
	elsewhere, err := p.passTLS(k)
	if err != nil {
		return err
	}
	failed := p.listen(l, k, elsewhere)
	if p.opts.Ready != nil {
		p.opts.Ready(files.url)
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	}
}

// listen serves the API on l in the background.
func (p *platform) listen(l net.Listener, k *enclaves.Keeper, elsewhere func(*http.Request) string) <-chan error {
	gate := gateway.New(gateway.Config{
		Dial:      func(ctx context.Context) (net.Conn, error) { return k.Dial(ctx, wire.PortSession) },
		Elsewhere: elsewhere, Max: maxConnections, PerClient: maxPerClient, Log: p.log,
	})
	failed := make(chan error, 1)
	server := serving.Start(l, api.New(api.Config{
		Functions: p.store, Verify: p.users.Verify, KeySet: p.users.KeySet, Issuer: p.users.Issuer().Iss,
		Releases: k.Releases, Sessions: gate, Log: p.log,
	}), 2*time.Minute, p.log, failed)
	p.onClose(func() error {
		gate.Close()
		return server.Close(lastCalls)
	})
	return failed
}

// host is the host part of the address to listen on.
func (p *platform) host() string {
	host, _, _ := net.SplitHostPort(p.opts.Listen) // Validate has seen to its form
	return host
}

// url is how clients on this machine reach l.
func (p *platform) url(l net.Listener) string {
	host := p.host()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	scheme := "http://"
	if p.opts.TLS {
		scheme = "https://"
	}
	return scheme + net.JoinHostPort(host, port)
}
