package handler

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/sandbox"
	"github.com/cape-functions/cape/enclave/python"
)

// Host starts handler processes. It is safe for concurrent use.
type Host struct {
	sandbox *sandbox.Sandbox
	python  *interpreter
	show    []string // directories every jail shows
	dir     string   // the worker's files
	large   chan struct{}
}

// New asks the interpreter where it lives, writes the worker's files below
// Scratch, and tries both once. Errors: ErrPython, sandbox's.
func New(cfg Config) (*Host, error) {
	py, err := ask(cfg.Python)
	if err != nil {
		return nil, err
	}
	show, err := py.directories(cfg.Scratch)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(cfg.Scratch, "python-")
	if err != nil {
		return nil, fmt.Errorf("making room for the worker's files: %w", err)
	}
	h := &Host{sandbox: cfg.Sandbox, python: py, show: append(show, dir), dir: dir, large: make(chan struct{}, largeRPCs)}
	if err := errors.Join(os.Chmod(dir, 0o755), python.Write(dir)); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	ctx, cancel := context.WithTimeout(context.Background(), wire.HandlerStart)
	defer cancel()
	if err := h.Check(ctx, []byte("def cape_handler(data): return data\n")); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: it does not run in a jail: %w", ErrPython, err), h.Close())
	}
	return h, nil
}

// Python is the interpreter's version in the form of wire.Release: "3.11".
func (h *Host) Python() string {
	return fmt.Sprintf("%d.%d", h.python.Version[0], h.python.Version[1])
}

// Platform is the interpreter's platform in the form of wire.Release: "linux-x86_64".
func (h *Host) Platform() string { return h.python.Platform }

// Close removes the worker's files. Processes are ended by their own Close, or
// by the sandbox's.
func (h *Host) Close() error { return os.RemoveAll(h.dir) }

// program is the command line of one of our own Python files.
func (h *Host) program(file string, args ...string) []string {
	argv := append([]string{h.python.Executable}, flags()...)
	return append(append(argv, filepath.Join(h.dir, file)), args...)
}

// Start starts the jail, which begins to import the function; the first Invoke
// reports how that went. ctx bounds the start alone.
func (h *Host) Start(ctx context.Context, o Options) (*Process, error) {
	if !filepath.IsAbs(o.Tree) || !filepath.IsLocal(o.Work) {
		return nil, fmt.Errorf("%w: the function's folder %q in %q", sandbox.ErrSetup, o.Work, o.Tree)
	}
	o.Limits = withDefaults(o.Limits)
	name := filepath.Base(o.Work)
	if name == "." || name == "rpc.sock" {
		name = "app"
	}
	p := &Process{limits: o.Limits, turn: make(chan struct{}, 1), started: time.Now()}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	spec := sandbox.Spec{
		Args:     h.program(python.Worker, strconv.FormatUint(o.Limits.Output, 10)),
		ReadOnly: h.show, Tree: filepath.Join(o.Tree, o.Work), Name: name,
		Limits: sandbox.Limits{Memory: o.Limits.Memory, Scratch: o.Limits.Scratch, Procs: o.Limits.Procs},
	}
	theirs, err := p.connect(&spec, o)
	if err == nil {
		p.jail, err = h.sandbox.Start(ctx, spec)
	}
	for _, f := range theirs {
		f.Close()
	}
	if err != nil {
		p.release()
		return nil, err
	}
	if err := p.serve(h, o); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func withDefaults(l wire.LimitsConfig) wire.LimitsConfig {
	d := wire.DefaultLimits()
	for _, f := range []struct{ value, fallback *uint64 }{{&l.Memory, &d.Memory}, {&l.Scratch, &d.Scratch}, {&l.Procs, &d.Procs},
		{&l.CallMS, &d.CallMS}, {&l.Input, &d.Input}, {&l.Output, &d.Output}} {
		if *f.value == 0 {
			*f.value = *f.fallback
		}
	}
	return l
}

// connect makes the pipes and the socket between p and its jail. It returns the
// jail's ends, which the caller closes when the jail has its own.
func (p *Process) connect(spec *sandbox.Spec, o Options) (theirs []*os.File, err error) {
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.in, theirs = inW, append(theirs, inR)
	outR, outW, err := os.Pipe()
	if err != nil {
		return theirs, err
	}
	p.out, theirs = outR, append(theirs, outW)
	spec.Files = []*os.File{inR, outW}
	for _, s := range []struct {
		wanted bool
		end    **os.File
		mine   **os.File
	}{{o.Stdout != nil, &spec.Stdout, &p.stdout}, {o.Stderr != nil, &spec.Stderr, &p.stderr}} {
		if !s.wanted {
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			return theirs, err
		}
		*s.mine, *s.end, theirs = r, w, append(theirs, w)
	}
	if o.RPC != nil {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return theirs, fmt.Errorf("making a socket: %w", err)
		}
		spec.Socket = os.NewFile(uintptr(fd), "rpc.sock")
		p.socket = spec.Socket
	}
	return theirs, nil
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
