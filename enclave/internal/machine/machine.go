package machine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cape-functions/cape/enclave/internal/boot/event"
	"github.com/cape-functions/cape/vsock"
)

// Scratch is the directory in memory for the runtime alone.
const Scratch = "/scratch"

// Entropy sources, as the kernel names them.
const (
	NSMEntropy    = "nsm-hwrng"
	VirtioEntropy = "virtio_rng." // and a number
)

const (
	rngFile = "/sys/class/misc/hw_random/rng_current"
	self    = "/proc/self/exe"
)

// Config is what the machines of the two runtimes do differently.
type Config struct {
	// Entropy is the source that the kernel must use.
	Entropy string
	// Heartbeat reaches the parent that waits for a sign of life; nil: nobody does.
	Heartbeat vsock.Network
	// Args are the runtime's own, its name first.
	Args []string
	// Stderr lets the runtime's standard error through: never in production, since what a
	// panic says is not on the closed list of events.
	Stderr bool
}

// Run is PID 1 of a machine. It returns only if the kernel refuses to end.
func Run(cfg Config) error {
	stage, err := "mounts", mountAll()
	if err == nil {
		stage, err = "console", openConsole(cfg.Stderr)
	}
	log := event.New(os.Stdout)
	if err == nil {
		stage, err = prepare(cfg)
	}
	if err == nil {
		log.Info(event.MachineReady)
		stage, err = "runtime", supervise(cfg.Args)
	}
	if err == nil {
		stage = "done"
	}
	log.Info(event.MachineEnding, event.Stage, stage)
	_ = unix.IoctlSetInt(1, unix.TCSBRK, 1) // the last line is to come out
	unix.Sync()
	return fmt.Errorf("ending the machine: %w", unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART))
}

// openConsole makes the console standard output, and nothing standard input.
func openConsole(stderr bool) error {
	console, err := os.OpenFile("/dev/console", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	to := []*os.File{null, console, null}
	if stderr {
		to[2] = console
	}
	for fd, f := range to {
		if err := unix.Dup3(int(f.Fd()), fd, 0); err != nil {
			return fmt.Errorf("opening descriptor %d: %w", fd, err)
		}
	}
	return errors.Join(console.Close(), null.Close())
}

// prepare checks the machine, and says which stage failed.
func prepare(cfg Config) (stage string, err error) {
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: files}); err != nil {
		return "limits", err
	}
	if err := raise("/proc/sys"); err != nil {
		return "limits", err
	}
	text, err := os.ReadFile("/proc/meminfo")
	if err == nil {
		err = checkMemory(string(text))
	}
	if err != nil {
		return "memory", err
	}
	if err := checkEntropy(rngFile, cfg.Entropy); err != nil {
		return "entropy", err
	}
	if cfg.Heartbeat != nil {
		if err := heartbeat(cfg.Heartbeat, heartbeatWithin); err != nil {
			return "heartbeat", err
		}
	}
	return "", nil
}

// SetClock sets the kernel's clock.
func SetClock(t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
		return fmt.Errorf("setting the clock: %w", err)
	}
	return nil
}

// HypervisorClock is the time that KVM tells its guests, where there is one.
func HypervisorClock() (time.Time, error) { return deviceClock("/dev/ptp0") }

// deviceClock reads a clock that is a device.
func deviceClock(device string) (time.Time, error) {
	f, err := os.Open(device)
	if err != nil {
		return time.Time{}, err
	}
	defer f.Close()
	const ofDescriptor = 3 // the kernel's CLOCKFD
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^int(f.Fd())<<3|ofDescriptor), &ts); err != nil {
		return time.Time{}, fmt.Errorf("reading %s: %w", device, err)
	}
	return time.Unix(ts.Unix()), nil
}

// supervise runs the runtime, with an empty environment, and reaps whatever else ends. It
// returns when the runtime has ended.
func supervise(args []string) error {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	defer signal.Stop(ended)
	cmd := &exec.Cmd{Path: self, Args: args, Env: []string{}, Dir: "/", Stdout: os.Stdout, Stderr: os.Stderr}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the runtime: %w", err)
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		switch {
		case err != nil && !errors.Is(err, unix.EINTR):
			return fmt.Errorf("waiting for the runtime: %w", err)
		case pid == 0:
			<-ended
		case pid == cmd.Process.Pid && (status.Exited() || status.Signaled()):
			if status != 0 {
				return fmt.Errorf("the runtime ended with status %#x", uint32(status))
			}
			return nil
		}
	}
}
