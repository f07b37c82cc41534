// Package child is what the backends share whose enclaves are processes of this
// host: the start, the console, and the end. A child ends with this program,
// however that ends.
package child

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/cape-functions/cape/host/internal/launcher/console"
)

// ErrEnded: the enclave ended by itself, and its process says nothing of why.
var ErrEnded = errors.New("its runtime ended")

// Error is how a child ended that nobody told to.
type Error struct {
	Cause error  // of its process, or ErrEnded
	Last  string // the last telling line of its console
}

func (e *Error) Error() string {
	if e.Last == "" {
		return fmt.Sprintf("%v; it said nothing", e.Cause)
	}
	return fmt.Sprintf("%v; the last line of its log: %.500q", e.Cause, e.Last)
}

// Unwrap returns Cause.
func (e *Error) Unwrap() error { return e.Cause }

// stopWait is the time between SIGTERM and SIGKILL.
const stopWait = 3 * time.Second

// Config says what to start.
type Config struct {
	// Name is what errors call it: "the enclave".
	Name string
	Log  *slog.Logger
	// Plain is the level at which lines are logged that are no events of the runtime's.
	Plain slog.Level
	// Spawn starts the process, with output as its standard output and error, and with
	// Attributes. Its thread lives as long as the child.
	Spawn func(output *os.File) (*exec.Cmd, error)
	// Quiet says whether a process that ended with status 0 after this last line ended well.
	// nil: it always did.
	Quiet func(last string) bool
	// Ended tidies up after a process that was started.
	Ended func() error
}

// Attributes are those of every child: the kernel kills it when the thread that started it is gone.
func Attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
}

// Child is a started enclave.
type Child struct {
	cfg     Config
	process *os.Process
	closing chan struct{} // holds a token once Close was called
	done    chan struct{}
	err     error // set before done is closed
}

// Start starts a child. Ended is not called when it cannot be started.
func Start(cfg Config) (*Child, error) {
	c := &Child{cfg: cfg, closing: make(chan struct{}, 1), done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		output, write, err := os.Pipe()
		if err != nil {
			started <- err
			return
		}
		cmd, err := cfg.Spawn(write)
		write.Close()
		if err != nil {
			output.Close()
			started <- err
			return
		}
		c.process = cmd.Process
		started <- nil
		c.attend(cmd, output)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

// attend passes the console on until the process has ended, then tidies up.
func (c *Child) attend(cmd *exec.Cmd, output *os.File) {
	said := make(chan string, 1)
	go func() { said <- console.Copy(c.cfg.Log, output, c.cfg.Plain) }()
	err := cmd.Wait()
	last := ""
	select { // an orphan could hold the pipe open
	case last = <-said:
	case <-time.After(time.Second):
	}
	output.Close()
	if len(c.closing) == 0 {
		if err == nil && c.cfg.Quiet != nil && !c.cfg.Quiet(last) {
			err = ErrEnded
		}
		if err != nil {
			err = &Error{Cause: err, Last: last}
		}
	}
	c.err = errors.Join(err, c.cfg.Ended())
	close(c.done)
}

// Ready returns when dial succeeds. It tries every so often until the child has ended, ctx is done, or within is over.
func (c *Child) Ready(ctx context.Context, within, every time.Duration, dial func(context.Context) (net.Conn, error)) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		if conn, err := dial(ctx); err == nil {
			return conn.Close()
		}
		select {
		case <-c.done:
			err := c.err
			if err == nil {
				err = ErrEnded
			}
			return fmt.Errorf("%s ended while it started: %w", c.cfg.Name, err)
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", c.cfg.Name, ctx.Err())
		case <-time.After(every):
		}
	}
}

// Pid is the number of the process.
func (c *Child) Pid() int { return c.process.Pid }

// Done is closed when the child has ended and everything is tidied up.
func (c *Child) Done() <-chan struct{} { return c.done }

// Err says why the child ended, once Done is closed: an *Error unless it was told to, or did what it had to.
func (c *Child) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// Close ends the child and waits for it. Sessions were drained before.
func (c *Child) Close() error {
	select {
	case c.closing <- struct{}{}:
	default:
	}
	if err := c.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-c.done:
		return nil
	case <-time.After(stopWait):
	}
	if err := c.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-c.done
	return nil
}

func (c *Child) signal(s os.Signal) error {
	if err := c.process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stopping %s: %w", c.cfg.Name, err)
	}
	return nil
}
