// Package control is the control plane of a platform in production: it has the
// database and the blob store, answers clients' plain calls, hands sessions to
// workers, and workers what their enclaves boot with and store. It holds no state
// of its own beyond a cache of half a second, and no key.
package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/fleet"
	"github.com/cape-functions/cape/host/internal/gateway"
	"github.com/cape-functions/cape/host/internal/kek"
	"github.com/cape-functions/cape/host/internal/oidc"
	"github.com/cape-functions/cape/host/internal/settings"
	"github.com/cape-functions/cape/host/internal/store"
	"github.com/cape-functions/cape/host/internal/tlsfile"
)

const (
	// maxConnections bounds the sessions that are piped at once.
	maxConnections = 20_000
	// orphanAge is how old a body without a row must be to be what a deploy left
	// that was cut short: another control plane may be writing it.
	orphanAge = 24 * time.Hour
	// sweepEvery is how often what is left over is removed.
	sweepEvery = time.Hour
	// forgetWorkers is how long a silent worker is remembered.
	forgetWorkers = 24 * time.Hour
)

// ErrTrust: the platform's key was made for others than these settings say.
var ErrTrust = errors.New("the platform's key was made for another issuer or role")

// Options are what a control plane runs with.
type Options struct {
	Settings settings.Serve
	Log      *slog.Logger
	// HTTP asks the issuer; nil means a client with the system's roots.
	HTTP *http.Client
	// Ready is called, when it is set, once both listeners serve: with the
	// addresses of clients' and workers'.
	Ready func(clients, workers net.Addr)
}

// plane is a running control plane.
type plane struct {
	opts     Options
	cfg      settings.Serve
	log      *slog.Logger
	store    *store.Store
	issuer   *oidc.Issuer
	trust    wire.Trust
	token    fleet.Token
	cert     *tlsfile.Certificate // nil: plain
	roster   *fleet.Roster
	gate     *gateway.Gateway
	draining drained
	closers  []io.Closer
}

// Run serves until ctx is done; then it drains: /readyz fails, new sessions are
// refused, running ones end or are cut after the time that the settings give.
// Everything it started has ended when it returns.
func Run(ctx context.Context, opts Options) (err error) {
	if err := opts.Settings.Validate(); err != nil {
		return err
	}
	p := &plane{opts: opts, cfg: opts.Settings, log: opts.Log}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.open(ctx); err != nil {
		return err
	}
	return p.serve(ctx)
}

type closeFunc func() error

func (f closeFunc) Close() error { return f() }

func (p *plane) onClose(f func() error) { p.closers = append(p.closers, closeFunc(f)) }

func (p *plane) close() error {
	var errs []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		errs = append(errs, p.closers[i].Close())
	}
	return errors.Join(errs...)
}

func (p *plane) open(ctx context.Context) (err error) {
	if p.token, err = fleet.ReadToken(p.cfg.WorkerToken); err != nil {
		return err
	}
	if p.cfg.Cert != "" {
		if p.cert, err = tlsfile.Files(p.cfg.Cert, p.cfg.Key, p.log); err != nil {
			return err
		}
	}
	db, blobs, err := store.OpenURLs(p.cfg.Database, p.cfg.Blobs)
	if err != nil {
		return err
	}
	if p.store, err = store.New(ctx, store.Config{DB: db, Blobs: blobs, Now: time.Now, Log: p.log}); err != nil {
		return errors.Join(err, blobs.Bucket.Close(), db.Close())
	}
	p.onClose(p.store.Close)
	if err := p.openTrust(ctx); err != nil {
		return err
	}
	p.roster = fleet.NewRoster(p.store, p.log)
	return nil
}

// openTrust finds whom enclaves are to believe. Once there is a key, that is what
// its policy names: other settings would only make enclaves that cannot use it.
func (p *plane) openTrust(ctx context.Context) error {
	key, err := kek.Load(ctx, p.store)
	if err != nil && !errors.Is(err, kek.ErrNone) {
		return err
	}
	keys := p.cfg.IssuerKeys
	if key != nil && keys == "" && len(key.Trust.Issuers) == 1 && key.Trust.Issuers[0].Iss == p.cfg.Issuer && key.Trust.Issuers[0].JWKS != nil {
		keys = *key.Trust.Issuers[0].JWKS
	}
	p.issuer, err = oidc.Open(ctx, oidc.Config{Issuer: p.cfg.Issuer, Keys: keys, HTTP: p.opts.HTTP, Now: time.Now, Log: p.log})
	if err != nil {
		return err
	}
	p.trust = wire.Trust{Issuers: []wire.Issuer{p.issuer.Trust()}, Role: p.cfg.Role}
	if key == nil {
		p.log.Warn("the platform has no key yet, and no worker can serve: make it with caped kms init on a worker")
		return nil
	}
	now, err := wire.Marshal(p.trust)
	if err != nil {
		return err
	}
	then, err := wire.Marshal(key.Trust)
	if err != nil {
		return err
	}
	if !bytes.Equal(now, then) {
		return fmt.Errorf("%w: %s; settings say %s. Enclaves with the settings' trust could open nothing that is stored", ErrTrust, describe(key.Trust), describe(p.trust))
	}
	return nil
}

func describe(t wire.Trust) string {
	var b bytes.Buffer
	for _, i := range t.Issuers {
		keys := "keys signed by the host"
		if i.JWKS != nil {
			keys = "keys at " + *i.JWKS
		}
		fmt.Fprintf(&b, "issuer %s (%s), ", i.Iss, keys)
	}
	return b.String() + "role " + t.Role
}

// boot is what enclaves boot with.
func (p *plane) boot(ctx context.Context) (wire.Boot, error) {
	key, err := kek.Load(ctx, p.store)
	if err != nil {
		return wire.Boot{}, err
	}
	return key.Boot()
}

// born remembers the platform's key.
func (p *plane) born(ctx context.Context, b wire.Birth) error {
	key := kek.Key{ARN: b.KMS, Policy: b.Policy, Birth: b.Document, Trust: p.trust}
	if err := key.Save(ctx, p.store); err != nil {
		return err
	}
	p.log.Warn("an enclave made the platform's key", "arn", b.KMS)
	return nil
}

// sweep removes, now and then, what is left over.
func (p *plane) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		n, err := p.store.Sweep(ctx, time.Now().Add(-orphanAge))
		err = errors.Join(err, p.store.SweepWorkers(ctx, forgetWorkers))
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			p.log.Error("removing what is left over", "error", err)
		} else if n > 0 {
			p.log.Info("removed what unfinished deploys had left", "bodies", n)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
