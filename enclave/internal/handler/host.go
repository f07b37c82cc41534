package handler

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/intake"
	"github.com/cape-functions/cape/enclave/internal/sandbox"
	"github.com/cape-functions/cape/enclave/python"
)

// Host starts handler processes. It is safe for concurrent use.
type Host struct {
	sandbox *sandbox.Sandbox
	python  *interpreter
	dir     string // the files of package python, where they are not the image's
	spares  *spares
}

// New asks the interpreter where it lives and writes the worker's files below Scratch, unless an image has both; it starts
// the fork server, and tries it once. Errors: ErrPython, sandbox's.
func New(cfg Config) (*Host, error) {
	py, err := ask(cfg.Python, cfg.Worker)
	if err != nil {
		return nil, err
	}
	show, err := py.directories(cfg.Scratch)
	if err != nil {
		return nil, err
	}
	h := &Host{python: py}
	dir := cfg.Worker
	if dir == "" {
		if dir, err = os.MkdirTemp(cfg.Scratch, "python-"); err != nil {
			return nil, fmt.Errorf("making room for the worker's files: %w", err)
		}
		h.dir = dir
		if err := errors.Join(os.Chmod(dir, 0o755), python.Write(dir)); err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
	}
	server := append(append([]string{py.Executable}, flags()...), filepath.Join(dir, python.Server))
	h.sandbox, err = sandbox.New(sandbox.Config{
		Dir: cfg.Scratch, Trees: cfg.Trees, Server: server, ReadOnly: show, Try: try, AllowDegraded: cfg.AllowDegraded,
	})
	if err != nil {
		return nil, errors.Join(err, h.remove())
	}
	h.spares = newSpares(h)
	return h, nil
}

// try finds out whether the interpreter runs in a jail.
func try(jail *sandbox.Jail) error {
	ctx, cancel := context.WithTimeout(context.Background(), wire.HandlerStart)
	defer cancel()
	verdict, ok, err := examine(ctx, jail, []byte("def cape_handler(data): return data\n"))
	if err != nil || !ok || verdict != "" {
		return fmt.Errorf("%w: it does not run in a jail: %w", ErrPython, errors.Join(err, errors.New(verdict)))
	}
	return nil
}

// Layers lists the jail's defences, and which of them this machine cannot have.
func (h *Host) Layers() []sandbox.Layer { return h.sandbox.Layers() }

// Python is the interpreter's version in the form of wire.Release: "3.11".
func (h *Host) Python() string { return h.python.Version }

// Platform is the interpreter's platform in the form of wire.Release: "linux-x86_64".
func (h *Host) Platform() string { return h.python.Platform }

// Close ends all processes and removes what was written.
func (h *Host) Close() error {
	h.spares.close()
	return errors.Join(h.sandbox.Close(), h.remove())
}

// remove removes what New has written.
func (h *Host) remove() error {
	if h.dir == "" {
		return nil
	}
	return os.RemoveAll(h.dir)
}

// Yield ends one function's spares, which hold its folder, as a newcomer would; false when there are none to end.
func (h *Host) Yield() bool {
	h.spares.mu.Lock()
	p := h.spares.forget(new(byte), time.Now())
	h.spares.mu.Unlock()
	if p != nil {
		p.end()
	}
	return p != nil
}

// Start gives a connection its process: a spare that has imported the function, or a jail that begins to; the first Invoke
// reports how that went. ctx bounds the start alone.
func (h *Host) Start(ctx context.Context, o Options) (*Process, error) {
	if !filepath.IsAbs(o.Tree) || !filepath.IsLocal(o.Work) {
		return nil, fmt.Errorf("%w: the function's folder %q in %q", sandbox.ErrSetup, o.Work, o.Tree)
	}
	var err error
	if o.Limits, err = intake.ReadLimits(filepath.Join(o.Tree, o.Work), withDefaults(o.Limits)); err != nil {
		return nil, err
	}
	p := h.spares.take(o)
	if p != nil {
		if err := p.jail.Thaw(); err != nil { // it ended a moment ago
			p.Close()
			p = nil
		}
	}
	if p == nil {
		if p, err = h.launch(ctx, o, o.RPC != nil, o.Stdout != nil || o.Stderr != nil); err != nil {
			return nil, err
		}
		p.onLoad = func(took time.Duration) { h.spares.loaded(o, took) }
	}
	if err := p.serve(o); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// launch starts a jail that imports o's function. rpc says whether it has a socket, printed whether what it prints is kept.
func (h *Host) launch(ctx context.Context, o Options, rpc, printed bool) (*Process, error) {
	name := filepath.Base(o.Work)
	if name == "." || name == "rpc.sock" {
		name = "app"
	}
	p := &Process{limits: o.Limits, turn: make(chan struct{}, 1), started: time.Now()}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	spec := sandbox.Spec{
		Tree: filepath.Join(o.Tree, o.Work), Name: name, Output: o.Limits.Output, Print: printed,
		Limits: sandbox.Limits{Memory: o.Limits.Memory, Scratch: o.Limits.Scratch, Procs: o.Limits.Procs,
			Files: o.Limits.Files, CPU: o.Limits.CPU},
	}
	if rpc {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return nil, fmt.Errorf("making a socket: %w", err)
		}
		p.socket = os.NewFile(uintptr(fd), "rpc.sock")
		spec.Socket = p.socket
	}
	jail, err := h.sandbox.Start(ctx, spec)
	if err != nil {
		p.release()
		return nil, err
	}
	p.jail, p.in, p.out, p.stdout, p.stderr = jail, jail.In, jail.Out, jail.Stdout, jail.Stderr
	return p, nil
}

func withDefaults(l wire.LimitsConfig) wire.LimitsConfig {
	d := wire.DefaultLimits()
	for _, f := range []struct{ value, fallback *uint64 }{{&l.Memory, &d.Memory}, {&l.Scratch, &d.Scratch}, {&l.Procs, &d.Procs},
		{&l.CallMS, &d.CallMS}, {&l.Input, &d.Input}, {&l.Output, &d.Output}, {&l.Files, &d.Files}, {&l.CPU, &d.CPU}} {
		if *f.value == 0 {
			*f.value = *f.fallback
		}
	}
	return l
}

// ended turns the end of a jail into an error.
func ended(e sandbox.Exit) error {
	switch {
	case e.OutOfMemory && (e.Signal == syscall.SIGKILL || e.Killed):
		return ErrOutOfMemory
	case e.Signal != 0:
		return fmt.Errorf("%w: killed by %s", ErrEnded, unix.SignalName(e.Signal))
	case e.Killed:
		return fmt.Errorf("%w: it was ended", ErrEnded)
	}
	return fmt.Errorf("%w: it exited with status %d", ErrEnded, e.Code)
}
