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
	"runtime"
	"syscall"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/devnsm"
	"github.com/cape-functions/cape/host/internal/launcher/console"
	"github.com/cape-functions/cape/host/internal/launcher/hub"
	"github.com/cape-functions/cape/vsock"
)

// Deadlines of a machine's life. A guest without KVM boots in seconds on an idle host, and in a minute on
// a crowded one.
const (
	startWait  = 5 * time.Minute
	deviceWait = 10 * time.Second
	dialWait   = 2 * time.Second // for one try at a guest that may not be up
	stopWait   = 3 * time.Second // between SIGTERM and SIGKILL
)

// deviceCID is the guest's where each machine has a device of its own.
const deviceCID = 16

// enclave is a running machine.
type enclave struct {
	log     *slog.Logger
	dir     string
	cid     uint32
	boot    *boot
	accel   string
	net     vsock.Network
	own     *hub.Hub // of this machine's device
	member  *hub.Member
	release wire.Release
	vm      *exec.Cmd

	done chan struct{}
	err  error // set before done is closed
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

func withModule(services map[uint32]func(net.Conn), module *devnsm.Module) map[uint32]func(net.Conn) {
	all := maps.Clone(services)
	if all == nil {
		all = map[uint32]func(net.Conn){}
	}
	all[wire.PortDevNSM] = module.Serve
	return all
}

// joinDevice listens where this machine's own vsock device connects to.
func (e *enclave) joinDevice(services map[uint32]func(net.Conn), module *devnsm.Module) (err error) {
	e.cid, e.net = deviceCID, vsock.Hybrid(e.uds())
	e.own = hub.New(hub.Config{Log: e.log, Listen: e.net.Listen, Peer: func(net.Conn) (uint32, bool) { return deviceCID, true }})
	e.member, err = e.own.Join(e.cid, withModule(services, module))
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
	e.member, err = h.Join(e.cid, withModule(services, module))
	return err
}

// start runs the device and the machine. The thread that starts them stays until they end: the
// kernel kills them when that thread, and so caped, is gone.
func (e *enclave) start(device, vm *exec.Cmd) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := e.startDevice(device)
		var output, write *os.File
		if err == nil {
			output, write, err = os.Pipe()
		}
		if err != nil {
			started <- errors.Join(err, stop(device))
			return
		}
		e.vm = vm
		vm.Stdout, vm.Stderr, vm.SysProcAttr = write, write, dying()
		err = vm.Start()
		write.Close()
		if err != nil {
			started <- errors.Join(fmt.Errorf("starting %s: %w", vm.Path, err), output.Close(), stop(device))
			return
		}
		started <- nil
		e.attend(device, output)
	}()
	return <-started
}

// dying processes end with the thread that started them.
func dying() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
}

// startDevice starts the vsock device and waits for its socket.
func (e *enclave) startDevice(device *exec.Cmd) error {
	if device == nil {
		return nil
	}
	device.SysProcAttr = dying()
	if err := device.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", device.Path, err)
	}
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
	if cmd == nil || cmd.Process == nil {
		return nil
	}
	err := cmd.Process.Kill()
	_ = cmd.Wait() // it says that it was killed
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// attend passes the console on until the machine has ended, then tidies up.
func (e *enclave) attend(device *exec.Cmd, output *os.File) {
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		console.Copy(e.log, output, slog.LevelDebug)
	}()
	err := e.vm.Wait()
	select { // an orphan could hold the pipe open
	case <-logged:
	case <-time.After(time.Second):
	}
	e.err = errors.Join(err, output.Close(), stop(device), e.cleanUp())
	close(e.done)
}

// cleanUp closes the host's ends and removes the directory.
func (e *enclave) cleanUp() error {
	var errs []error
	if e.member != nil {
		e.member.Leave()
	}
	if e.own != nil {
		errs = append(errs, e.own.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(e.dir))...)
}

// waitReady returns when the session port accepts connections.
func (e *enclave) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	for {
		try, stop := context.WithTimeout(ctx, dialWait)
		conn, err := e.Dial(try, wire.PortSession)
		stop()
		if err == nil {
			return conn.Close()
		}
		select {
		case <-e.done:
			return fmt.Errorf("the machine ended while it started: %w; its log tells why", errors.Join(errEnded, e.err))
		case <-ctx.Done():
			return fmt.Errorf("waiting for the enclave: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

var errEnded = errors.New("its runtime ended")

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

// Close implements launcher.Enclave. QEMU ends at once: sessions were drained before.
func (e *enclave) Close() error {
	if err := e.vm.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping the machine: %w", err)
	}
	select {
	case <-e.done:
		return nil
	case <-time.After(stopWait):
	}
	if err := e.vm.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping the machine: %w", err)
	}
	<-e.done
	return nil
}
