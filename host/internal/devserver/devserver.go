// Package devserver is the whole platform on one machine, for development:
// control plane, identity provider, a local KMS, and an enclave that is a
// process. Everything it keeps lies in one data directory.
package devserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/cape-functions/cape/host/internal/devcloud"
	"github.com/cape-functions/cape/host/internal/identity"
	"github.com/cape-functions/cape/host/internal/launcher"
	"github.com/cape-functions/cape/host/internal/store"
	"github.com/cape-functions/cape/host/internal/vsockproxy"
)

// platform is a running development platform.
type platform struct {
	opts     Options
	log      *slog.Logger
	cloud    *devcloud.Cloud
	users    *identity.Provider
	proxy    *vsockproxy.Proxy
	store    *store.Store
	launcher launcher.Launcher
	closers  []io.Closer
}

// Run brings the platform up and serves until ctx is done. Everything it
// started has ended when it returns.
func Run(ctx context.Context, opts Options) (err error) {
	p := &platform{opts: opts, log: opts.Log}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.open(ctx); err != nil {
		return err
	}
	l, err := net.Listen("tcp", opts.Listen)
	if err != nil {
		return fmt.Errorf("listening on %s: %w; name another address with --listen", opts.Listen, err)
	}
	defer l.Close() // the HTTP server has closed it by then, usually
	key, err := p.kek(ctx)
	if err != nil {
		return err
	}
	return p.serve(ctx, l, key)
}

// InitKMS makes the platform's key unless there is one, and returns its ARN.
func InitKMS(ctx context.Context, opts Options) (arn string, err error) {
	p := &platform{opts: opts, log: opts.Log}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := p.open(ctx); err != nil {
		return "", err
	}
	key, err := p.kek(ctx)
	if err != nil {
		return "", err
	}
	return key.ARN, nil
}

type closeFunc func() error

func (f closeFunc) Close() error { return f() }

func (p *platform) onClose(f func() error) { p.closers = append(p.closers, closeFunc(f)) }

// close ends what was opened, the last first.
func (p *platform) close() error {
	var errs []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		errs = append(errs, p.closers[i].Close())
	}
	return errors.Join(errs...)
}

func (p *platform) path(name string) string { return filepath.Join(p.opts.DataDir, name) }

func (p *platform) open(ctx context.Context) error {
	if err := p.opts.Validate(); err != nil {
		return err
	}
	lock, err := lockDir(p.opts.DataDir)
	if err != nil {
		return err
	}
	p.onClose(lock.Close)
	if p.users, err = identity.Open(p.path("identity"), time.Now); err != nil {
		return err
	}
	if err := p.openStore(ctx); err != nil {
		return err
	}
	if err := p.openCloud(); err != nil {
		return err
	}
	return p.openLauncher()
}

// openStore opens database and blobs and removes what a deploy that was cut
// short left: nobody else uses this directory, so every orphan is one.
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
		return errors.Join(err, blobs.Bucket.Close(), db.Close())
	}
	p.onClose(p.store.Close)
	n, err := p.store.Sweep(ctx, time.Time{})
	if err != nil {
		return err
	}
	if n > 0 {
		p.log.Log(ctx, LevelNotice, "removed what unfinished deploys had left", "bodies", n)
	}
	return nil
}

// openCloud starts what plays AWS, and the proxy through which alone the
// enclave reaches its KMS.
func (p *platform) openCloud() (err error) {
	p.cloud, err = devcloud.Open(devcloud.Config{Dir: p.opts.DataDir, Pairs: p.opts.Pairs, Log: p.log})
	if err != nil {
		return err
	}
	p.onClose(p.cloud.Close)
	_, endpoint := p.cloud.Route()
	p.proxy, err = vsockproxy.New(vsockproxy.Config{Allow: []vsockproxy.Endpoint{endpoint}, Log: p.log})
	if err != nil {
		return err
	}
	p.onClose(p.proxy.Close)
	return nil
}

func (p *platform) openLauncher() error {
	dir, err := runDir(p.opts.DataDir)
	if err != nil {
		return err
	}
	p.onClose(func() error { return os.RemoveAll(dir) })
	if p.launcher, err = p.opts.NewLauncher(Parts{Dir: dir, Authority: p.cloud.Authority()}); err != nil {
		return err
	}
	if c, ok := p.launcher.(io.Closer); ok {
		p.onClose(c.Close)
	}
	return nil
}
