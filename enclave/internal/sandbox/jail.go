package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Jail is a running jail.
type Jail struct {
	sandbox *Sandbox
	process *os.Process
	id      uint64 // 0: none of its own
	group   *group
	plain   string // folder of a jail without namespaces
	control *os.File
	reports *os.File
	report  report // the first one
	ending  sync.Once
	asked   atomic.Bool // to end, by Close
	done    chan struct{}
	exit    Exit
	err     error // of the cleaning up
}

// Start builds a jail and starts the program in it. ctx bounds the building
// alone. Errors: ErrSetup, ErrClosed, ctx's.
func (s *Sandbox) Start(ctx context.Context, spec Spec) (*Jail, error) {
	if err := spec.validate(s.dir); err != nil {
		return nil, err
	}
	j, err := s.start(ctx, spec, false)
	if err != nil {
		return nil, err
	}
	return j, nil
}

// start returns the jail along with an error when there was one to ask why.
func (s *Sandbox) start(ctx context.Context, spec Spec, probe bool) (*Jail, error) {
	select {
	case <-s.quit:
		return nil, ErrClosed
	default:
	}
	j := &Jail{sandbox: s, done: make(chan struct{}), group: &group{}}
	if err := j.prepare(spec); err != nil {
		return nil, errors.Join(err, j.release())
	}
	o, attr := s.order(spec, j, probe)
	if err := j.launch(spec, attr); err != nil {
		return nil, errors.Join(err, j.release())
	}
	if !s.register(j) {
		j.process.Kill() // it has no order yet, and so no children
		j.process.Wait()
		return nil, errors.Join(ErrClosed, j.release())
	}
	ctx, cancel := context.WithTimeout(ctx, setupTime)
	defer cancel()
	stop := context.AfterFunc(ctx, j.end)
	err := j.instruct(o)
	if !stop() && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", ErrSetup, ctx.Err())
	}
	go j.wait()
	if err != nil {
		j.end()
		<-j.done
	}
	return j, err
}

// prepare takes what a jail needs before its first process.
func (j *Jail) prepare(spec Spec) (err error) {
	s := j.sandbox
	if s.users.own() {
		if j.id, err = s.users.take(); err != nil {
			return err
		}
	}
	if !s.ns.all {
		if j.plain, err = os.MkdirTemp(s.plain, "jail-"); err != nil {
			return fmt.Errorf("%w: %w", ErrSetup, err)
		}
		if err := openTo(j.plain, j.id); err != nil {
			return err
		}
	}
	limits := spec.Limits
	if s.copy && spec.Tree != "" {
		n, err := treeSize(spec.Tree)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrSetup, err)
		}
		limits.Memory += n // the copy is kept in memory
	}
	g, err := s.groups.create(limits)
	if errors.Is(err, os.ErrNotExist) { // swept by another runtime while it was empty
		g, err = s.groups.create(limits)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSetup, err)
	}
	j.group = g
	return nil
}

// openTo lets the jail's own user pass through the folder of a jail without
// namespaces, which lies in one that lets nobody else in.
func openTo(dir string, id uint64) error {
	if id == 0 {
		return nil
	}
	return errors.Join(os.Chmod(dir, 0o711), os.Chown(dir, int(id), int(id)))
}

func (s *Sandbox) order(spec Spec, j *Jail, probe bool) (*order, *syscall.SysProcAttr) {
	attr, inside := attributes(s.ns, s.users, j.id)
	o := &order{
		Namespaces: s.ns.all, Probe: probe, UserNS: s.ns.user, Copy: s.copy, Root: s.root,
		Args: spec.Args, ReadOnly: spec.ReadOnly, Tree: spec.Tree, Name: spec.Name,
		ID: inside, Switch: s.users.own(), Limits: spec.Limits, Files: len(spec.Files), Socket: spec.Socket != nil,
	}
	if j.plain != "" {
		o.Root = j.plain
	}
	return o, attr
}

// launch starts the first process, which waits for its order.
func (j *Jail) launch(spec Spec, attr *syscall.SysProcAttr) error {
	controlR, controlW, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSetup, err)
	}
	defer controlR.Close()
	j.control = controlW
	reportR, reportW, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSetup, err)
	}
	defer reportW.Close()
	j.reports = reportR
	null := j.sandbox.null
	files := []*os.File{null, null, null, controlR, reportW, orNull(spec.Stdout, null), orNull(spec.Stderr, null)}
	if spec.Socket != nil {
		files = append(files, spec.Socket)
	}
	files = append(files, spec.Files...)
	// One thread: those of the first process count against the jail's limit.
	j.process, err = j.sandbox.run(&os.ProcAttr{Files: files, Sys: attr, Env: []string{"GOMAXPROCS=1"}})
	if err != nil {
		return fmt.Errorf("%w: starting the first process: %w", ErrSetup, err)
	}
	return nil
}

func orNull(f, null *os.File) *os.File {
	if f == nil {
		return null
	}
	return f
}

// register enters j among the living; false when the sandbox was closed.
func (s *Sandbox) register(j *Jail) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.jails[j] = struct{}{}
	return true
}

// instruct gives the order and reads how it went.
func (j *Jail) instruct(o *order) error {
	if err := j.group.add(j.process.Pid); err != nil {
		return fmt.Errorf("%w: %w", ErrSetup, err)
	}
	if err := writeMessage(j.control, o); err != nil {
		return fmt.Errorf("%w: %w", ErrSetup, err)
	}
	if err := readMessage(j.reports, &j.report); err != nil {
		return fmt.Errorf("%w: its first process ended early: %w", ErrSetup, err)
	}
	if j.report.Error != "" {
		return fmt.Errorf("%w: %s", ErrSetup, j.report.Error)
	}
	return nil
}

// wait collects the first process, and with it everything.
func (j *Jail) wait() {
	var last report
	err := readMessage(io.LimitReader(j.reports, maxMessage), &last)
	ours := j.asked.Load() && syscall.Signal(last.Signal) == syscall.SIGKILL
	if err == nil && last.Ended && !ours {
		j.exit = Exit{Code: last.Code, Signal: syscall.Signal(last.Signal)}
	} else {
		j.exit = Exit{Killed: true}
	}
	j.process.Wait()
	j.exit.OutOfMemory = j.group.outOfMemory()
	j.err = j.release()
	close(j.done)
}

// release gives back what prepare and launch took.
func (j *Jail) release() error {
	s := j.sandbox
	var errs []error
	for _, f := range []*os.File{j.control, j.reports} {
		if f != nil {
			f.Close()
		}
	}
	errs = append(errs, j.group.remove())
	if j.plain != "" {
		errs = append(errs, os.RemoveAll(j.plain))
	}
	if j.id != 0 {
		s.users.giveBack(j.id)
	}
	s.mu.Lock()
	delete(s.jails, j)
	s.mu.Unlock()
	return errors.Join(errs...)
}

// Done is closed when nothing of the jail is left.
func (j *Jail) Done() <-chan struct{} { return j.done }

// Exit says how it ended; valid after Done.
func (j *Jail) Exit() Exit { return j.exit }

// Close ends every process of the jail and waits until nothing of it is left.
func (j *Jail) Close() error {
	j.end()
	<-j.done
	return j.err
}

// end begins the end. With namespaces the kernel ends all processes with the
// first one; without, the first one must be given time to find them.
func (j *Jail) end() {
	j.ending.Do(func() {
		j.asked.Store(true)
		if j.sandbox.ns.all {
			j.process.Kill()
			return
		}
		j.control.Close()
		go func() {
			select {
			case <-j.done:
			case <-time.After(5 * time.Second):
				j.process.Kill()
			}
		}()
	})
}
