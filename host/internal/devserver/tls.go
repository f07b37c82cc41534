package devserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/devserver/localca"
	"github.com/cape-functions/cape/host/internal/enclaves"
	"github.com/cape-functions/cape/host/internal/gateway"
)

// authorityTLS opens the local CA and writes DIR/ca.pem.
func (p *platform) authorityTLS() (*localca.Authority, error) {
	ca, err := localca.Open(p.path("tls"), time.Now())
	if err != nil {
		return nil, err
	}
	return ca, writeFile(p.path("ca.pem"), ca.PEM(), 0o644)
}

// withTLS makes the certificate of this start.
func withTLS(l net.Listener, ca *localca.Authority, host string) (net.Listener, error) {
	config, err := ca.Server(host, time.Now())
	if err != nil {
		return nil, err
	}
	return tls.NewListener(l, config), nil
}

// certify has the enclave's TLS key certified by the local CA, for the names of
// this platform. The key itself is never here.
func (p *platform) certify(ca *localca.Authority) func(context.Context, []byte) ([]byte, error) {
	return func(_ context.Context, csr []byte) ([]byte, error) { return ca.Sign(csr, p.host(), time.Now()) }
}

// passTLS opens the second listener, whose connections go to the enclave as they
// are, and returns where a session should go that may be held there. It returns
// nil when the platform has none.
func (p *platform) passTLS(k *enclaves.Keeper) (func(*http.Request) string, error) {
	if !p.opts.EnclaveTLS {
		return nil, nil
	}
	l, err := net.Listen("tcp", net.JoinHostPort(p.host(), "0"))
	if err != nil {
		return nil, fmt.Errorf("listening for TLS that ends in the enclave: %w", err)
	}
	gate := gateway.New(gateway.Config{
		Dial: func(ctx context.Context) (net.Conn, error) { return k.Dial(ctx, wire.PortSessionTLS) }, Max: maxConnections, PerClient: maxPerClient, Log: p.log,
	})
	passed := make(chan error, 1)
	go func() { passed <- gate.Pass(l) }()
	p.onClose(func() error {
		err := l.Close()
		gate.Close()
		<-passed
		return err
	})
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return nil, err
	}
	return func(r *http.Request) string { return moved(r, port) }, nil
}

// moved is the URL of a request on another port: the name is the one by which
// the client reached this platform.
func moved(r *http.Request, port string) string {
	host := (&url.URL{Host: r.Host}).Hostname()
	if host == "" {
		return ""
	}
	return "https://" + net.JoinHostPort(host, port) + r.URL.RequestURI()
}
