// Package devserver is the whole platform on one machine, for development:
// control plane, identity provider, a local KMS, and an enclave that is a
// process. Everything it keeps lies in one data directory.
package devserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/api"
	"github.com/cape-functions/cape/host/internal/devnsm"
	"github.com/cape-functions/cape/host/internal/devserver/localca"
	"github.com/cape-functions/cape/host/internal/gateway"
	"github.com/cape-functions/cape/host/internal/identity"
	"github.com/cape-functions/cape/host/internal/launcher"
	"github.com/cape-functions/cape/host/internal/launcher/process"
	"github.com/cape-functions/cape/host/internal/localkms"
	"github.com/cape-functions/cape/host/internal/store"
	"github.com/cape-functions/cape/host/internal/vsockproxy"
)

// DefaultListen is where a platform without flags listens, and where a client
// that was told of no other server looks for it.
const DefaultListen = "127.0.0.1:7676"

// The local KMS's account and the role whose credentials the enclave gets.
const (
	accountID = "000000000000"
	region    = "us-east-1"
	roleARN   = "arn:aws:iam::" + accountID + ":role/cape-enclave"
	adminARN  = "arn:aws:iam::" + accountID + ":role/cape-admin"
)

// maxConnections bounds the client connections at once.
const maxConnections = 20_000

// Options are those of `caped dev`.
type Options struct {
	DataDir  string // absolute
	Listen   string // host:port; port 0 means a free one
	TLS      bool
	Python   string
	Runtime  string
	Revision string
	Log      *slog.Logger
	Ready    func(url string) // called when the platform can serve
}

// platform is a running development platform.
type platform struct {
	opts      Options
	log       *slog.Logger
	authority *devnsm.Authority
	users     *identity.Provider
	kms       *localkms.Server
	proxy     *vsockproxy.Proxy
	store     *store.Store
	launcher  launcher.Launcher
	kmsPort   uint16
	trust     wire.Trust
	closers   []io.Closer
}

// Run brings the platform up and serves until ctx is done. Everything it
// started has ended when it returns.
func Run(ctx context.Context, opts Options) (err error) {
	p := &platform{opts: opts, log: opts.Log}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.open(ctx); err != nil {
		return err
	}
	kek, err := p.kek(ctx)
	if err != nil {
		return err
	}
	return p.serve(ctx, kek)
}

type closeFunc func() error

func (f closeFunc) Close() error { return f() }

func (p *platform) onClose(f func() error) { p.closers = append(p.closers, closeFunc(f)) }

// close ends what open started, the last first.
func (p *platform) close() error {
	var errs []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		errs = append(errs, p.closers[i].Close())
	}
	return errors.Join(errs...)
}

func (p *platform) open(ctx context.Context) (err error) {
	lock, err := lockDir(p.opts.DataDir)
	if err != nil {
		return err
	}
	p.onClose(lock.Close)
	if p.authority, err = devnsm.OpenAuthority(p.path("authority"), time.Now); err != nil {
		return err
	}
	if p.users, err = identity.Open(p.path("identity"), time.Now); err != nil {
		return err
	}
	p.trust = wire.Trust{Issuers: []wire.Issuer{p.users.Issuer()}, Role: roleARN}
	if err := p.openStore(ctx); err != nil {
		return err
	}
	if err := p.openKMS(); err != nil {
		return err
	}
	return p.openLauncher()
}

func (p *platform) path(name string) string { return filepath.Join(p.opts.DataDir, name) }

func (p *platform) openStore(ctx context.Context) error {
	db, err := store.OpenSQLite(p.path("cape.db"))
	if err != nil {
		return err
	}
	blobs, err := store.OpenFiles(p.path("blobs"))
	if err != nil {
		return errors.Join(err, db.Close())
	}
	p.store, err = store.New(ctx, store.Config{DB: db, Blobs: blobs, Now: time.Now, Log: p.log})
	if err != nil {
		return err
	}
	p.onClose(p.store.Close)
	return nil
}

// openKMS starts the local KMS on a loopback port of its own, and the proxy
// through which alone the enclave reaches it.
func (p *platform) openKMS() (err error) {
	p.kms, err = localkms.Open(localkms.Config{
		Dir: p.path("kms"), Region: region, AccountID: accountID, Log: p.log.With("part", "kms"),
		AttestationRoots: func() [][]byte { return [][]byte{p.authority.RootDER()} },
	})
	if err != nil {
		return err
	}
	p.onClose(p.kms.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("starting the local KMS: %w", err)
	}
	p.kmsPort = uint16(l.Addr().(*net.TCPAddr).Port)
	served := make(chan error, 1)
	go func() { served <- p.kms.Serve(l) }()
	p.onClose(func() error { return errors.Join(p.kms.Close(), <-served) })
	p.proxy, err = vsockproxy.New(vsockproxy.Config{Allow: []vsockproxy.Endpoint{{Host: "127.0.0.1", Port: p.kmsPort, AllowPrivate: true}}, Log: p.log})
	if err != nil {
		return err
	}
	p.onClose(p.proxy.Close)
	return nil
}

// openLauncher prepares the enclaves' directory: short, since unix sockets lie in it.
func (p *platform) openLauncher() error {
	dir := p.path("run")
	if err := os.RemoveAll(dir); err != nil { // what a killed caped left
		return fmt.Errorf("clearing %s: %w", dir, err)
	}
	if len(dir) > 64 {
		short, err := os.MkdirTemp("", "cape-run-")
		if err != nil {
			return fmt.Errorf("making a directory for sockets: %w", err)
		}
		dir = short
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making a directory for sockets: %w", err)
	}
	p.onClose(func() error { return os.RemoveAll(dir) })
	l, err := process.New(process.Config{
		Runtime: p.opts.Runtime, Python: p.opts.Python, Dir: dir, Authority: p.authority, Revision: p.opts.Revision, Log: p.log,
	})
	p.launcher = l
	return err
}

// serve runs the enclave and the API until ctx is done.
func (p *platform) serve(ctx context.Context, kek *kek) error {
	l, err := net.Listen("tcp", p.opts.Listen)
	if err != nil {
		return fmt.Errorf("listening on %s: %w; name another address with --listen", p.opts.Listen, err)
	}
	p.onClose(func() error { l.Close(); return nil })
	keeper := &keeper{launcher: p.launcher, spec: p.spec(kek), log: p.log}
	p.onClose(keeper.close)
	if err := keeper.start(ctx); err != nil {
		return err
	}
	address, err := p.writeClientFiles(l, keeper.releases()[0], kek)
	if err != nil {
		return err
	}
	gate := gateway.New(gateway.Config{Dial: keeper.dial, Max: maxConnections, Log: p.log})
	p.onClose(func() error { gate.Close(); return nil })
	server := &http.Server{
		Handler: api.New(api.Config{
			Functions: p.store, Verify: p.users.Verify, KeySet: p.users.KeySet, Issuer: p.trust.Issuers[0].Iss,
			Releases: keeper.releases, Sessions: gate, Log: p.log,
		}),
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: wire.MaxHeader,
		ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
	}
	if p.opts.TLS {
		config, err := p.tlsConfig()
		if err != nil {
			return err
		}
		l = tls.NewListener(l, config)
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	p.onClose(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			return server.Close()
		}
		return nil
	})
	if p.opts.Ready != nil {
		p.opts.Ready(address)
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	}
}

// tlsConfig makes the certificate of this start; DIR/ca.pem verifies it.
func (p *platform) tlsConfig() (*tls.Config, error) {
	ca, err := localca.Open(p.path("tls"), time.Now())
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(p.opts.Listen)
	if err != nil {
		return nil, err
	}
	return ca.Server(host, time.Now())
}

func (p *platform) writeClientFiles(l net.Listener, release wire.Release, kek *kek) (string, error) {
	host, _, err := net.SplitHostPort(p.opts.Listen)
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return "", err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	scheme := "http://"
	if p.opts.TLS {
		scheme = "https://"
		ca, err := localca.Open(p.path("tls"), time.Now())
		if err != nil {
			return "", err
		}
		if err := writeFile(p.path("ca.pem"), ca.PEM(), 0o644); err != nil {
			return "", err
		}
	}
	files := &clientFiles{
		dir: p.opts.DataDir, url: scheme + net.JoinHostPort(host, port), tls: p.opts.TLS, rootDER: p.authority.RootDER(), rootPEM: p.authority.RootPEM(),
		release: release, trust: p.trust, policy: kek.policy, users: p.users, now: time.Now(),
	}
	return files.url, files.write()
}

// InitKMS makes the platform's key unless there is one, and returns its ARN.
func InitKMS(ctx context.Context, opts Options) (arn string, err error) {
	p := &platform{opts: opts, log: opts.Log}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.open(ctx); err != nil {
		return "", err
	}
	k, err := p.kek(ctx)
	if err != nil {
		return "", err
	}
	return k.arn, nil
}
