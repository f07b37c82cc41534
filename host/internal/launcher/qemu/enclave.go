package qemu

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/devnsm"
	"github.com/cape-functions/cape/host/internal/launcher/child"
	"github.com/cape-functions/cape/host/internal/launcher/hub"
	"github.com/cape-functions/cape/vsock"
)

// Deadlines of a machine's life. A guest without KVM boots in seconds on an idle host, and in a minute on
// a crowded one.
const (
	startWait  = 5 * time.Minute
	deviceWait = 10 * time.Second
	dialWait   = 2 * time.Second // for one try at a guest that may not be up
)

// deviceCID is the guest's where each machine has a device of its own.
const deviceCID = 16

// enclave is a running machine.
type enclave struct {
	*child.Child
	log     *slog.Logger
	dir     string
	cid     uint32
	boot    *boot
	accel   string
	net     vsock.Network
	own     *hub.Hub // of this machine's device
	member  *hub.Member
	device  *exec.Cmd     // nil where the host's kernel plays it
	alive   chan struct{} // closed when the guest has connected to its security module
	waking  sync.Once
	release wire.Release
}

func (e *enclave) makeDir(parent string) error {
	id := make([]byte, 4)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	e.dir = filepath.Join(parent, hex.EncodeToString(id))
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return fmt.Errorf("preparing enclave directory: %w", err)
	}
	return nil
}

func (e *enclave) uds() string { return filepath.Join(e.dir, "v") }

// withModule adds the security module, which is the first that a guest connects to.
func (e *enclave) withModule(services map[uint32]func(net.Conn), module *devnsm.Module) map[uint32]func(net.Conn) {
	all := maps.Clone(services)
	if all == nil {
		all = map[uint32]func(net.Conn){}
	}
	all[wire.PortDevNSM] = func(c net.Conn) {
		e.waking.Do(func() { close(e.alive) })
		module.Serve(c)
	}
	return all
}

// joinDevice listens where this machine's own vsock device connects to.
func (e *enclave) joinDevice(services map[uint32]func(net.Conn), module *devnsm.Module) (err error) {
	e.cid, e.net = deviceCID, vsock.Hybrid(e.uds())
	e.own = hub.New(hub.Config{Log: e.log, Listen: e.net.Listen, Peer: func(net.Conn) (uint32, bool) { return deviceCID, true }})
	e.member, err = e.own.Join(e.cid, e.withModule(services, module))
	return err
}

// joinKernel takes a CID that no machine of this launcher has; QEMU fails if another's has it.
func (e *enclave) joinKernel(h *hub.Hub, services map[uint32]func(net.Conn), module *devnsm.Module) error {
	id := make([]byte, 4)
	if _, err := rand.Read(id); err != nil {
		return err
	}
	e.cid = 1<<16 + binary.BigEndian.Uint32(id)>>8
	e.net = vsock.AF(e.cid)
	var err error
	e.member, err = h.Join(e.cid, e.withModule(services, module))
	return err
}

// spawn starts the vsock device and the machine.
func (e *enclave) spawn(device, vm *exec.Cmd, output *os.File) (*exec.Cmd, error) {
	if err := e.startDevice(device); err != nil {
		return nil, err
	}
	vm.Stdout, vm.Stderr, vm.SysProcAttr = output, output, child.Attributes()
	if err := vm.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", vm.Path, err)
	}
	return vm, nil
}

// startDevice starts the vsock device and waits for its socket.
func (e *enclave) startDevice(device *exec.Cmd) error {
	if device == nil {
		return nil
	}
	device.SysProcAttr = child.Attributes()
	if err := device.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", device.Path, err)
	}
	e.device = device
	for end := time.Now().Add(deviceWait); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(e.dir, "control")); err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s opened no socket", device.Path)
		}
	}
}

// stop ends a process that is not wanted any more.
func stop(cmd *exec.Cmd) error {
	if cmd == nil {
		return nil
	}
	err := cmd.Process.Kill()
	_ = cmd.Wait() // it says that it was killed
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// cleanUp closes the host's ends, ends the device, and removes the directory.
func (e *enclave) cleanUp() error {
	var errs []error
	if e.member != nil {
		e.member.Leave()
	}
	if e.own != nil {
		errs = append(errs, e.own.Close())
	}
	return errors.Join(append(errs, stop(e.device), os.RemoveAll(e.dir))...)
}

// ready dials the session port, once the guest's own end of the device is up: connections that came before
// may hang, and others behind them.
func (e *enclave) ready(ctx context.Context) (net.Conn, error) {
	select {
	case <-e.alive:
	default:
		return nil, errAsleep
	}
	ctx, cancel := context.WithTimeout(ctx, dialWait)
	defer cancel()
	return e.Dial(ctx, wire.PortSession)
}

var errAsleep = errors.New("the guest has not connected yet")

// quiet tells whether the runtime ended well after this last line: QEMU ends with status 0 whatever
// its guest did.
func quiet(last string) bool { return last == "runtime stopped: done" }

// Dial implements launcher.Enclave.
func (e *enclave) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	return e.net.Dial(ctx, port)
}

// Release implements launcher.Enclave.
func (e *enclave) Release() wire.Release { return e.release }
