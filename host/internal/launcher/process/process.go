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
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/devnsm"
	"github.com/cape-functions/cape/host/internal/launcher"
	"github.com/cape-functions/cape/host/internal/launcher/child"
	"github.com/cape-functions/cape/host/internal/launcher/hub"
	"github.com/cape-functions/cape/vsock"
)

// startWait is how long the session port may take to answer.
const startWait = 60 * time.Second

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
	e := &enclave{log: l.cfg.Log, release: wire.Release{
		Measurements: img.measurements(), Revision: l.cfg.Revision, Python: img.py.Version, Platform: img.py.Platform,
	}}
	if err := e.makeDir(l.cfg.Dir); err != nil {
		return nil, errors.Join(err, e.cleanUp())
	}
	services := map[uint32]func(net.Conn){wire.PortDevNSM: module.Serve}
	maps.Copy(services, spec.Services)
	if err := e.listen(services); err != nil {
		return nil, errors.Join(err, e.cleanUp())
	}
	e.Child, err = child.Start(child.Config{
		Name: "the enclave", Log: e.log, Plain: slog.LevelInfo, Ended: e.cleanUp,
		Spawn: func(output *os.File) (*exec.Cmd, error) { return e.spawn(l.cfg.Runtime, img.py.Executable, output) },
	})
	if err != nil {
		return nil, errors.Join(err, e.cleanUp())
	}
	if spec.Oneshot {
		return e, nil
	}
	dial := func(ctx context.Context) (net.Conn, error) { return e.Dial(ctx, wire.PortSession) }
	if err := e.Ready(ctx, startWait, 5*time.Millisecond, dial); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// enclave is a running runtime.
type enclave struct {
	*child.Child
	log     *slog.Logger
	dir     string
	memory  string   // scratch of a runtime without namespaces
	more    []string // arguments
	net     vsock.Network
	hub     *hub.Hub
	release wire.Release
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
	const only = 0 // one enclave has these sockets
	e.hub = hub.New(hub.Config{Log: e.log, Listen: e.net.Listen, Peer: func(net.Conn) (uint32, bool) { return only, true }})
	_, err := e.hub.Join(only, services)
	return err
}

// spawn starts the process in namespaces of its own, or, where the machine
// refuses those, without; the runtime lists what is missing.
func (e *enclave) spawn(path, python string, output *os.File) (*exec.Cmd, error) {
	var failures error
	for _, flags := range namespaceChoices() {
		cmd := &exec.Cmd{
			Path:        path,
			Args:        e.arguments(python, flags),
			Env:         []string{},
			Dir:         "/",
			Stdout:      output,
			Stderr:      output,
			SysProcAttr: attributes(flags),
		}
		err := cmd.Start()
		if err == nil {
			if flags == 0 {
				e.log.Warn("this machine refuses namespaces: the enclave process can reach the network", "hint", "allow unprivileged user namespaces, or run as root")
			}
			return cmd, nil
		}
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

// cleanUp closes what the host held open for the enclave and removes its directory.
func (e *enclave) cleanUp() error {
	var errs []error
	if e.hub != nil {
		errs = append(errs, e.hub.Close())
	}
	errs = append(errs, os.RemoveAll(e.dir))
	if e.memory != "" {
		errs = append(errs, os.RemoveAll(e.memory))
	}
	return errors.Join(errs...)
}

// Dial implements launcher.Enclave.
func (e *enclave) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	return e.net.Dial(ctx, port)
}

// Release implements launcher.Enclave.
func (e *enclave) Release() wire.Release { return e.release }
