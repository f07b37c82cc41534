// Package qemu launches enclave images in virtual machines of QEMU, as AWS Nitro
// would: the image's kernel, command line and ramdisks, no network, no disk, and
// AF_VSOCK to the host. The launcher measures what it boots and plays the security
// module under a development root. It proves an image; the operator of the machine
// can read the guest's memory, and the documents say so by their root.
package qemu

import (
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/host/internal/devnsm"
	"github.com/cape-functions/cape/host/internal/launcher"
	"github.com/cape-functions/cape/host/internal/launcher/child"
	"github.com/cape-functions/cape/host/internal/launcher/hub"
	"github.com/cape-functions/cape/image/eif"
)

// Memory in MiB and CPUs of a machine that nobody gave others.
const (
	DefaultMemory = 3072
	DefaultCPUs   = 2
	minMemory     = 512
)

// Config says what to boot and with whom as its hypervisor.
type Config struct {
	Image string // path of a development image (cape.development on its command line)
	// Tools is a folder to look for programs in that are not in PATH; may be empty.
	Tools string
	// Dir is for sockets and the image's parts: a short absolute path. Each running enclave
	// needs as much room there as its image.
	Dir       string
	Authority *devnsm.Authority
	Revision  string // of this build, where no release file stands beside the image
	Memory    int    // MiB; 0 means DefaultMemory
	CPUs      int    // 0 means DefaultCPUs
	Log       *slog.Logger
}

// Launcher starts virtual machines. It is safe for concurrent use.
type Launcher struct {
	cfg   Config
	tools tools
	hub   *hub.Hub // of the kernel's vsock, which all machines share

	mu    sync.Mutex
	accel string
}

// New checks cfg and what the machine has; what is missing is named (ErrMissing).
func New(cfg Config) (*Launcher, error) {
	if cfg.Memory == 0 {
		cfg.Memory = DefaultMemory
	}
	if cfg.CPUs == 0 {
		cfg.CPUs = DefaultCPUs
	}
	if cfg.Memory < minMemory || cfg.CPUs < 1 {
		return nil, fmt.Errorf("a virtual machine needs %d MiB of memory and a CPU at least", minMemory)
	}
	if !filepath.IsAbs(cfg.Dir) || len(cfg.Dir) > 70 {
		return nil, fmt.Errorf("launcher directory %s: needs an absolute path of at most 70 bytes, for unix sockets below it", cfg.Dir)
	}
	if info, err := os.Stat(cfg.Image); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: there is no image at %s: make image builds it", ErrMissing, cfg.Image)
	}
	t, err := findTools(cfg.Tools)
	if err != nil {
		return nil, err
	}
	return &Launcher{cfg: cfg, tools: t, hub: hub.New(hub.Config{Log: cfg.Log})}, nil
}

// Close closes the ports that machines share.
func (l *Launcher) Close() error { return l.hub.Close() }

// Measure implements launcher.Launcher.
func (l *Launcher) Measure(ctx context.Context) (map[string]string, error) {
	f, err := os.Open(l.cfg.Image)
	if err != nil {
		return nil, fmt.Errorf("measuring the image: %w", err)
	}
	defer f.Close()
	m, err := eif.Measure(ctx, f)
	if err != nil {
		return nil, fmt.Errorf("measuring %s: %w", l.cfg.Image, err)
	}
	return l.signed(m).Map(), nil
}

// signed puts this directory's certificate into PCR8, as if it had signed the image: data
// outlive an upgrade of the image.
func (l *Launcher) signed(m eif.Measurements) eif.Measurements {
	cert := sha512.Sum384(l.cfg.Authority.SigningCertificate().Raw)
	m.PCR8 = nitro.Extend(nitro.PCR{}, cert[:])
	return m
}

// Launch implements launcher.Launcher.
func (l *Launcher) Launch(ctx context.Context, spec launcher.Spec) (launcher.Enclave, error) {
	e := &enclave{log: l.cfg.Log, alive: make(chan struct{})}
	if err := e.makeDir(l.cfg.Dir); err != nil {
		return nil, err
	}
	if err := l.prepare(ctx, e, spec); err != nil {
		return nil, errors.Join(err, e.cleanUp())
	}
	l.cfg.Log.Info("a virtual machine starts", "accel", e.accel, "memory_mib", l.cfg.Memory, "cpus", l.cfg.CPUs)
	device, vm := l.command(e)
	var err error
	e.Child, err = child.Start(child.Config{
		Name: "the machine", Log: e.log, Plain: slog.LevelDebug, Quiet: quiet, Ended: e.cleanUp,
		Spawn: func(output *os.File) (*exec.Cmd, error) { return e.spawn(device, vm, output) },
	})
	if err != nil {
		return nil, errors.Join(err, e.cleanUp())
	}
	if spec.Oneshot {
		return e, nil
	}
	if err := e.Ready(ctx, startWait, 50*time.Millisecond, e.ready); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// prepare takes the image apart and opens the host's ends of the links.
func (l *Launcher) prepare(ctx context.Context, e *enclave, spec launcher.Spec) (err error) {
	if e.boot, err = unpack(ctx, l.cfg.Image, e.dir); err != nil {
		return err
	}
	m := l.signed(e.boot.measurements)
	if e.release, err = releaseOf(l.cfg.Image, m.Map(), l.cfg.Revision); err != nil {
		return err
	}
	e.accel = l.accelerator(ctx, e)
	module, err := l.cfg.Authority.NewModule(m.PCRs())
	if err != nil {
		return err
	}
	if l.tools.vsock == "" {
		return e.joinKernel(l.hub, spec.Services, module)
	}
	return e.joinDevice(spec.Services, module)
}

// accelerator probes once.
func (l *Launcher) accelerator(ctx context.Context, e *enclave) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.accel == "" {
		l.accel = accelerator(ctx, l.tools, e.boot.kernel, e.dir, l.cfg.Log)
	}
	return l.accel
}
