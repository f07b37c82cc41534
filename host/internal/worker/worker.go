// Package worker is a parent instance: it runs enclaves, hands them what the
// control plane says and the credentials of the instance's role, forwards their
// connections to KMS, STS and the issuers' key sets and to nothing else, and
// carries sessions to them. It stores nothing and sees ciphertext alone.
package worker

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/devcloud"
	"github.com/cape-functions/cape/host/internal/enclaves"
	"github.com/cape-functions/cape/host/internal/fleet"
	"github.com/cape-functions/cape/host/internal/gateway"
	"github.com/cape-functions/cape/host/internal/kek"
	"github.com/cape-functions/cape/host/internal/launcher"
	"github.com/cape-functions/cape/host/internal/rolecreds"
	"github.com/cape-functions/cape/host/internal/settings"
	"github.com/cape-functions/cape/host/internal/store/link"
	"github.com/cape-functions/cape/host/internal/tlsfile"
	"github.com/cape-functions/cape/host/internal/vsockproxy"
)

// keyWait is how long a worker waits before it asks again for the platform's key.
const keyWait = 5 * time.Second

// Options are what a worker runs with.
type Options struct {
	Settings settings.Worker
	Log      *slog.Logger
	// Launcher makes what starts enclaves, and what ends with the worker, which
	// may be nil. cloud is nil in production.
	Launcher func(ctx context.Context, cloud *devcloud.Cloud) (launcher.Launcher, func() error, error)
	// Ready is called, when it is set, once the worker serves.
	Ready func(sessions net.Addr)
}

// worker is a running worker.
type worker struct {
	opts     Options
	cfg      settings.Worker
	log      *slog.Logger
	control  *fleet.Client
	cloud    *devcloud.Cloud // nil in production
	role     *rolecreds.Source
	launcher launcher.Launcher
	proxy    *vsockproxy.Proxy
	outlets  []outlet
	cert     *tlsfile.Certificate
	gate     *gateway.Gateway
	passed   *passed // nil without --enclave-listen
	closers  []io.Closer

	mu     sync.Mutex
	keeper *enclaves.Keeper
	boot   *wire.Boot // the last that the control plane told
	state  string
}

// Run serves until ctx is done; then it drains: the control plane sends no more
// sessions, running ones end or are cut after the time that the settings give, and
// the enclaves are ended. Everything it started has ended when it returns.
func Run(ctx context.Context, opts Options) (err error) {
	if err := opts.Settings.Validate(); err != nil {
		return err
	}
	w := &worker{opts: opts, cfg: opts.Settings, log: opts.Log, state: fleet.Starting}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.open(ctx, 0); err != nil {
		return err
	}
	return w.serve(ctx)
}

// Init has an enclave make the platform's key and hands its birth to the control
// plane; it returns the key's ARN. Errors: kek.ErrExists, kek.ErrBarren, others.
func Init(ctx context.Context, opts Options, request wire.KEKRequest) (arn string, err error) {
	if err := opts.Settings.ValidateInit(); err != nil {
		return "", err
	}
	w := &worker{opts: opts, cfg: opts.Settings, log: opts.Log}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.open(ctx, -1); err != nil {
		return "", err
	}
	return w.makeKey(ctx, request)
}

type closeFunc func() error

func (f closeFunc) Close() error { return f() }

func (w *worker) onClose(f func() error) { w.closers = append(w.closers, closeFunc(f)) }

func (w *worker) close() error {
	var errs []error
	for i := len(w.closers) - 1; i >= 0; i-- {
		errs = append(errs, w.closers[i].Close())
	}
	return errors.Join(errs...)
}

// open makes everything but enclaves and listeners. pairs is how many RSA pairs a
// played KMS keeps ahead of need (devcloud.Config).
func (w *worker) open(ctx context.Context, pairs int) error {
	token, err := fleet.ReadToken(w.cfg.WorkerToken)
	if err != nil {
		return err
	}
	roots, err := pool(w.cfg.ControlCA)
	if err != nil {
		return err
	}
	if w.control, err = fleet.NewClient(w.cfg.Control, token, roots, w.log); err != nil {
		return err
	}
	w.onClose(func() error {
		w.control.Close()
		return nil
	})
	if dir := w.cfg.Development.Dir; dir != "" {
		if w.cloud, err = devcloud.Open(devcloud.Config{Dir: dir, Pairs: pairs, Log: w.log}); err != nil {
			return err
		}
		w.onClose(w.cloud.Close)
	} else {
		w.role = rolecreds.New("")
	}
	var ending func() error
	if w.launcher, ending, err = w.opts.Launcher(ctx, w.cloud); err != nil {
		return err
	}
	if ending != nil {
		w.onClose(ending)
	}
	return nil
}

// pool reads authorities; nil means the system's.
func pool(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading authorities: %w", err)
	}
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("reading authorities: %s holds no certificate", path)
	}
	return p, nil
}

// firstBoot waits until the platform has a key and the control plane answers.
func (w *worker) firstBoot(ctx context.Context) (*wire.Boot, error) {
	told := ""
	for {
		b, err := w.control.Boot(ctx)
		switch {
		case err == nil:
			return &b, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case errors.Is(err, fleet.ErrToken):
			return nil, err
		case err.Error() != told:
			told = err.Error()
			w.log.Warn("waiting for the control plane", "reason", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(keyWait):
		}
	}
}

// message is what enclaves boot with: as the control plane says now, or, while it
// does not answer, as it said last.
func (w *worker) message(ctx context.Context) (wire.Boot, error) {
	b, err := w.control.Boot(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		w.boot = &b
	} else {
		if w.boot == nil {
			return wire.Boot{}, err
		}
		w.log.Warn("an enclave boots with what the control plane said last", "reason", err)
	}
	return w.routed(*w.boot)
}

// spec is an enclave with the host's ends of its links.
func (w *worker) spec(boot link.Boot) launcher.Spec {
	var proxied []vsockproxy.Endpoint
	for _, o := range w.outlets {
		proxied = append(proxied, o.to)
	}
	services, closing := link.Ends{
		Boot: boot, Credentials: link.Credentials(w.credentials), Store: w.control.Store(), Proxied: proxied, Proxy: w.proxy, Log: w.log,
	}.Open()
	w.onClose(closing)
	return launcher.Spec{Services: services}
}

func (w *worker) credentials(ctx context.Context) (wire.Credentials, error) {
	if w.cloud != nil {
		return w.cloud.Credentials(ctx)
	}
	c, err := w.role.Get(ctx)
	if err != nil {
		w.log.Error("an enclave gets no credentials", "error", err)
	}
	return c, err
}

// makeKey boots an enclave that makes the key.
func (w *worker) makeKey(ctx context.Context, request wire.KEKRequest) (string, error) {
	if _, err := w.control.Boot(ctx); !errors.Is(err, kek.ErrNone) {
		if err == nil {
			err = kek.ErrExists
		}
		return "", err
	}
	trust, err := w.control.Trust(ctx)
	if err != nil {
		return "", err
	}
	region, err := w.region(ctx)
	if err != nil {
		return "", err
	}
	if err := w.openProxy(partitionOf(trust.Role), region, trust); err != nil {
		return "", err
	}
	boot, err := kek.Birth(trust, request)
	if err == nil {
		boot, err = w.routed(boot)
	}
	if err != nil {
		return "", err
	}
	birth, err := kek.Make(ctx, w.launcher, boot, w.spec, w.control.Born)
	if err != nil {
		return "", err
	}
	return birth.KMS, nil
}

func (w *worker) region(ctx context.Context) (string, error) {
	if w.cfg.Region != "" || w.cloud != nil {
		return w.cfg.Region, nil
	}
	return w.role.Region(ctx)
}

// Measurements is what the worker's enclaves would be measured as.
func Measurements(ctx context.Context, opts Options) (m map[string]string, err error) {
	if err := opts.Settings.ValidateInit(); err != nil {
		return nil, err
	}
	w := &worker{opts: opts, cfg: opts.Settings, log: opts.Log}
	defer func() { err = errors.Join(err, w.close()) }()
	if err := w.open(ctx, -1); err != nil {
		return nil, err
	}
	return w.launcher.Measure(ctx)
}
