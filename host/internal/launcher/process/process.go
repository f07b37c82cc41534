// Package process launches the runtime as a sandboxed process of this machine:
// no network, namespaces of its own where the machine allows them, vsock
// played by unix sockets, and the development security module in the place of
// Nitro's. It is for laptops, tests and demonstrations: the operator of the
// machine can read the process's memory, and its documents say so by their root.
package process

import (
	"context"
	"crypto/rand"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/devnsm"
	"github.com/cape-functions/cape/host/internal/launcher"
	"github.com/cape-functions/cape/host/internal/launcher/console"
	"github.com/cape-functions/cape/vsock"
)

// Deadlines of an enclave's life.
const (
	startWait = 60 * time.Second // until the session port answers
	stopWait  = 3 * time.Second  // between SIGTERM and SIGKILL
)

// Config says what to launch and with whom as its hypervisor.
type Config struct {
	Runtime   string // path of cape-runtime-dev
	Python    string // path of an interpreter, 3.9 or newer; shims are resolved
	Dir       string // for sockets and mount points; a short absolute path
	Authority *devnsm.Authority
	Revision  string // of this build, for GET /v1/releases
	Log       *slog.Logger
}

// Launcher starts runtimes as processes.
type Launcher struct {
	cfg Config
}

// New checks cfg and returns a Launcher.
func New(cfg Config) (*Launcher, error) {
	info, err := os.Stat(cfg.Runtime)
	if err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("no runtime at %s: run make build, or name it with --runtime", cfg.Runtime)
	}
	if !filepath.IsAbs(cfg.Dir) || len(cfg.Dir) > 70 {
		return nil, fmt.Errorf("launcher directory %s: needs an absolute path of at most 70 bytes, for unix sockets below it", cfg.Dir)
	}
	return &Launcher{cfg: cfg}, nil
}

// Measure implements launcher.Launcher.
func (l *Launcher) Measure(ctx context.Context) (map[string]string, error) {
	m, err := l.inspect(ctx)
	if err != nil {
		return nil, err
	}
	return m.measurements(), nil
}

// image is what a launch starts: an interpreter and a runtime, measured.
type image struct {
	py   *interpreter
	pcrs map[int]nitro.PCR
}

func (m *image) measurements() map[string]string {
	out := map[string]string{"HashAlgorithm": "Sha384 { ... }"}
	for i, v := range m.pcrs {
		out[fmt.Sprintf("PCR%d", i)] = v.String()
	}
	return out
}

func (l *Launcher) inspect(ctx context.Context) (*image, error) {
	py, err := findInterpreter(ctx, l.cfg.Python)
	if err != nil {
		return nil, err
	}
	pcrs, err := measure(ctx, l.cfg.Runtime, py)
	if err != nil {
		return nil, err
	}
	cert := sha512.Sum384(l.cfg.Authority.SigningCertificate().Raw)
	pcrs[8] = nitro.Extend(nitro.PCR{}, cert[:])
	return &image{py, pcrs}, nil
}

// Launch implements launcher.Launcher.
func (l *Launcher) Launch(ctx context.Context, spec launcher.Spec) (launcher.Enclave, error) {
	img, err := l.inspect(ctx)
	if err != nil {
		return nil, err
	}
	module, err := l.cfg.Authority.NewModule(img.pcrs)
	if err != nil {
		return nil, err
	}
	e := &enclave{log: l.cfg.Log, done: make(chan struct{}), release: wire.Release{
		Measurements: img.measurements(), Revision: l.cfg.Revision, Python: img.py.Version, Platform: img.py.Platform,
	}}
	if err := e.makeDir(l.cfg.Dir); err != nil {
		return nil, err
	}
	services := map[uint32]func(net.Conn){wire.PortDevNSM: module.Serve}
	for port, handle := range spec.Services {
		services[port] = handle
	}
	if err := e.listen(services); err != nil {
		e.cleanUp()
		return nil, err
	}
	if err := e.start(l.cfg.Runtime, img.py.Executable); err != nil {
		e.cleanUp()
		return nil, err
	}
	if spec.Oneshot {
		return e, nil
	}
	if err := e.waitReady(ctx); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// enclave is a running runtime.
type enclave struct {
	log     *slog.Logger
	dir     string
	memory  string   // scratch of a runtime without namespaces
	more    []string // arguments
	net     vsock.Network
	release wire.Release
	cmd     *exec.Cmd

	done chan struct{}
	err  error  // set before done is closed
	last string // the last line of the enclave's log; set before done is closed

	mu        sync.Mutex
	listeners []net.Listener
	conns     map[net.Conn]struct{}
	closed    bool
	handlers  sync.WaitGroup
}

func (e *enclave) makeDir(parent string) error {
	id := make([]byte, 4)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	e.dir = filepath.Join(parent, hex.EncodeToString(id))
	for _, d := range []string{"host", "enclave", "scratch"} {
		if err := os.MkdirAll(filepath.Join(e.dir, d), 0o700); err != nil {
			return fmt.Errorf("preparing enclave directory: %w", err)
		}
	}
	e.net = vsock.Unix(e.dir, false)
	return nil
}

// listen opens the host's ends of the links before the enclave starts.
func (e *enclave) listen(services map[uint32]func(net.Conn)) error {
	e.conns = map[net.Conn]struct{}{}
	for port, handle := range services {
		l, err := e.net.Listen(port)
		if err != nil {
			return err
		}
		e.listeners = append(e.listeners, l)
		e.handlers.Add(1)
		go func() {
			defer e.handlers.Done()
			e.accept(l, handle)
		}()
	}
	return nil
}

func (e *enclave) accept(l net.Listener, handle func(net.Conn)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		e.mu.Lock()
		if e.closed {
			e.mu.Unlock()
			conn.Close()
			return
		}
		e.conns[conn] = struct{}{}
		e.handlers.Add(1)
		e.mu.Unlock()
		go func() {
			defer e.handlers.Done()
			defer func() {
				conn.Close()
				e.mu.Lock()
				delete(e.conns, conn)
				e.mu.Unlock()
			}()
			handle(conn)
		}()
	}
}

// start runs the runtime. The thread that starts it stays until it ends: the
// kernel kills it when that thread, and so caped, is gone.
func (e *enclave) start(path, python string) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		output, err := e.spawn(path, python)
		started <- err
		if err != nil {
			return
		}
		logged, last := make(chan struct{}), ""
		go func() {
			defer close(logged)
			last = console.Copy(e.log, output, slog.LevelInfo)
		}()
		err = e.cmd.Wait()
		select { // an orphan could hold the pipe open
		case <-logged:
			e.last = last
		case <-time.After(time.Second):
		}
		output.Close()
		e.cleanUp()
		e.err = err
		close(e.done)
	}()
	return <-started
}

// spawn starts the process in namespaces of its own, or, where the machine
// refuses those, without; the runtime lists what is missing.
func (e *enclave) spawn(path, python string) (*os.File, error) {
	var failures error
	for _, flags := range namespaceChoices() {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		e.cmd = &exec.Cmd{
			Path:        path,
			Args:        e.arguments(python, flags),
			Env:         []string{},
			Dir:         "/",
			Stdout:      w,
			Stderr:      w,
			SysProcAttr: attributes(flags),
		}
		err = e.cmd.Start()
		w.Close()
		if err == nil {
			if flags == 0 {
				e.log.Warn("this machine refuses namespaces: the enclave process can reach the network", "hint", "allow unprivileged user namespaces, or run as root")
			}
			return r, nil
		}
		r.Close()
		failures = errors.Join(failures, err)
	}
	return nil, fmt.Errorf("starting %s: %w", path, failures)
}

// arguments are the runtime's. In a mount namespace of its own it mounts its
// scratch directory in memory, where the host does not see it; without one the
// directory is at least on no disk.
func (e *enclave) arguments(python string, flags uintptr) []string {
	args := append([]string{"cape-runtime-dev", "--links", e.dir, "--python", python}, e.more...)
	if flags&syscall.CLONE_NEWNS != 0 {
		return append(args, "--scratch", filepath.Join(e.dir, "scratch"), "--mount-scratch")
	}
	if dir, err := os.MkdirTemp("/dev/shm", "cape-"); err == nil {
		e.memory = dir
		return append(args, "--scratch", dir)
	}
	e.log.Warn("no file system in memory: functions are unpacked on disk while the enclave runs", "hint", "mount a tmpfs on /dev/shm")
	return append(args, "--scratch", filepath.Join(e.dir, "scratch"))
}

// waitReady returns when the session port accepts connections.
func (e *enclave) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	for {
		if conn, err := e.Dial(ctx, wire.PortSession); err == nil {
			return conn.Close()
		}
		select {
		case <-e.done:
			if e.last == "" {
				return fmt.Errorf("the enclave ended while it started: %w; it said nothing", e.endError())
			}
			return fmt.Errorf("the enclave ended while it started: %w; the last line of its log: %.500q", e.endError(), e.last)
		case <-ctx.Done():
			return fmt.Errorf("waiting for the enclave: %w", ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (e *enclave) endError() error {
	if e.err == nil {
		return errors.New("exit status 0")
	}
	return e.err
}

// cleanUp closes what the host held open for the enclave and removes its directory.
func (e *enclave) cleanUp() {
	e.mu.Lock()
	e.closed = true
	for _, l := range e.listeners {
		l.Close()
	}
	for c := range e.conns {
		c.Close()
	}
	e.mu.Unlock()
	e.handlers.Wait()
	for _, dir := range []string{e.dir, e.memory} {
		if dir == "" {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			e.log.Warn("removing enclave directory", "error", err)
		}
	}
}

// Dial implements launcher.Enclave.
func (e *enclave) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	return e.net.Dial(ctx, port)
}

// Done implements launcher.Enclave.
func (e *enclave) Done() <-chan struct{} { return e.done }

// Err implements launcher.Enclave.
func (e *enclave) Err() error {
	select {
	case <-e.done:
		return e.err
	default:
		return nil
	}
}

// Release implements launcher.Enclave.
func (e *enclave) Release() wire.Release { return e.release }

// Close implements launcher.Enclave.
func (e *enclave) Close() error {
	if err := e.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping the enclave: %w", err)
	}
	select {
	case <-e.done:
		return nil
	case <-time.After(stopWait):
	}
	if err := e.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping the enclave: %w", err)
	}
	<-e.done
	return nil
}
