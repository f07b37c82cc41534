package sandbox

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Jail is a jail, from before it has a function until nothing of it is left.
type Jail struct {
	// In and Out are the worker's frames. Stdout and Stderr are what the program prints, or nil.
	In, Out, Stdout, Stderr *os.File

	sandbox *Sandbox
	server  *server
	id      uint64 // 0: none of its own
	group   *group
	dir     string // folder of a jail without namespaces
	devices string // folder of its own device nodes
	control *peer
	keeper  *process
	worker  *process
	seen    namespaces        // of the worker
	missing map[string]string // layers that the keeper could not have
	ending  sync.Once
	waiting sync.Once
	given   bool        // to the caller, who closes the files
	asked   atomic.Bool // to end, by Close
	done    chan struct{}
	exit    Exit
	err     error // of the cleaning up
}

// errFurnish: the keeper could not put the function in its place.
var errFurnish = errors.New("giving the jail its function")

// Start gives a waiting jail its function, or builds one. ctx bounds the
// starting alone. Errors: ErrSetup, ErrClosed, ctx's.
func (s *Sandbox) Start(ctx context.Context, spec Spec) (*Jail, error) {
	if _, err := spec.tree(s.trees); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case <-s.quit:
		return nil, ErrClosed
	case j := <-s.ready:
		err := j.become(ctx, spec)
		if err == nil {
			return j, nil
		}
		j.Close()
		if ctx.Err() != nil {
			return nil, errors.Join(err, ctx.Err())
		}
	default:
	}
	j, err := s.newJail(ctx)
	if err != nil {
		return nil, err
	}
	if err := j.become(ctx, spec); err != nil {
		return nil, errors.Join(err, ctx.Err(), j.Close())
	}
	return j, nil
}

// newJail builds a jail, looks at it from outside, and leaves it waiting.
func (s *Sandbox) newJail(ctx context.Context) (*Jail, error) {
	if !s.begin() {
		return nil, ErrClosed
	}
	defer s.building.Done()
	j := &Jail{sandbox: s, done: make(chan struct{}), group: &group{}}
	srv, err := s.server()
	if err != nil {
		return nil, err
	}
	j.server = srv
	err = j.ask()
	if j.control == nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrSetup, err), j.release())
	}
	if !s.register(j) {
		return nil, errors.Join(ErrClosed, j.Close())
	}
	defer j.within(ctx)()
	if err == nil {
		err = j.meet()
	}
	if err == nil {
		err = j.inspect()
	}
	if err == nil {
		err = j.seal()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrSetup, err), ctx.Err(), j.Close())
	}
	return j, nil
}

// within ends waits for the jail when ctx ends or setupTime is over.
func (j *Jail) within(ctx context.Context) (stop func()) {
	set := func(t time.Time) {
		j.control.conn.SetDeadline(t)
		j.In.SetDeadline(t)
		j.Out.SetDeadline(t)
	}
	set(time.Now().Add(setupTime))
	cancel := context.AfterFunc(ctx, func() { set(time.Unix(1, 0)) })
	return func() {
		if cancel() {
			set(time.Time{})
		}
	}
}

// ask takes what a jail needs, and asks the fork server for it.
func (j *Jail) ask() (err error) {
	s := j.sandbox
	b := birth{ID: -1}
	if s.users.own() {
		if j.id, err = s.users.take(); err != nil {
			return err
		}
		b.ID = int64(j.id)
	}
	b.Map = s.idMap(j.id)
	if s.plain {
		if j.dir, err = os.MkdirTemp(s.bare, "jail-"); err != nil {
			return err
		}
		b.Dir = j.dir
		if j.id != 0 {
			if err := errors.Join(os.Chmod(j.dir, 0o711), os.Chown(j.dir, int(j.id), int(j.id))); err != nil {
				return err
			}
		}
	}
	if s.whyDevices == "" && !s.plain {
		j.devices, err = makeDevices(s.devices())
		if b.Devices = j.devices; err != nil {
			return err
		}
	}
	if j.group, err = s.groups.create(); err != nil {
		j.group = &group{}
		return err
	}
	files, err := j.connect()
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if err != nil {
		return err
	}
	groups, err := j.group.open()
	files = append(files, groups...)
	if err != nil {
		return err
	}
	return j.server.ask(b, files)
}

// connect makes the ends that the jail gets: the keeper's socket and the worker's pipes.
func (j *Jail) connect() (theirs []*os.File, err error) {
	control, end, err := newPeer()
	if err != nil {
		return nil, err
	}
	theirs = []*os.File{end}
	var inR *os.File
	if inR, j.In, err = os.Pipe(); err != nil {
		return theirs, errors.Join(err, control.conn.Close())
	}
	theirs = append(theirs, inR)
	for _, ours := range []**os.File{&j.Out, &j.Stdout, &j.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return theirs, errors.Join(err, control.conn.Close())
		}
		*ours, theirs = r, append(theirs, w)
	}
	j.control = control
	return theirs, nil
}

// meet learns who the keeper and the worker are.
func (j *Jail) meet() error {
	_, fd, err := j.control.receive()
	if err != nil {
		return err
	}
	if j.keeper, err = newProcess(fd); err != nil {
		return err
	}
	a, fd, err := j.control.receive()
	if err != nil {
		return err
	}
	j.missing = a.Missing
	if j.worker, err = newProcess(fd); err != nil {
		return err
	}
	return j.hear('r')
}

// seal has the worker close itself to everybody who has its user.
func (j *Jail) seal() error {
	if err := j.send('k', nil); err != nil {
		return err
	}
	if err := j.hear('k'); err != nil {
		return err
	}
	return j.worker.undumpable(j.user())
}

// hear waits for a frame without content from the worker.
func (j *Jail) hear(kind byte) error {
	var head [5]byte
	if _, err := io.ReadFull(j.Out, head[:]); err != nil {
		return fmt.Errorf("the worker ended early: %w", err)
	}
	if head != [5]byte{kind} {
		text := make([]byte, min(binary.BigEndian.Uint32(head[1:]), 512))
		io.ReadFull(j.Out, text)
		return fmt.Errorf("the worker failed: %q", text)
	}
	return nil
}

func (j *Jail) send(kind byte, body []byte) error {
	_, err := j.In.Write(append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body))), body...))
	return err
}

// become gives the jail its function and lets the worker go on. The worker's user is j.id from now on.
func (j *Jail) become(ctx context.Context, spec Spec) error {
	defer j.within(ctx)()
	s := j.sandbox
	tree, err := spec.tree(s.trees)
	if err != nil {
		return err
	}
	scratch, memory := spec.Limits.Scratch, spec.Limits.Memory
	if s.copy && spec.Tree != "" {
		n, err := treeSize(spec.Tree)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrSetup, err)
		}
		scratch, memory = scratch+n, memory+n // the copy is kept in memory
	}
	limits := spec.Limits
	limits.Memory = memory
	if err := j.group.limit(limits); err != nil {
		return fmt.Errorf("%w: %w", ErrSetup, err)
	}
	o := order{Do: "furnish", Dir: j.dir, ID: -1, Tree: tree, Name: spec.Name, Scratch: scratch, Copy: s.copy}
	if j.id != 0 {
		o.ID = int64(j.id)
	}
	var files []*os.File
	if spec.Socket != nil {
		files = append(files, spec.Socket)
	}
	if err := j.control.send(o, files...); err != nil {
		return fmt.Errorf("%w: %w", ErrSetup, err)
	}
	if _, _, err := j.control.receive(); err != nil {
		return fmt.Errorf("%w: %w: %w", ErrSetup, errFurnish, err)
	}
	if err := j.inspectMounts(spec.Name); err != nil {
		return fmt.Errorf("%w: %w", ErrSetup, err)
	}
	return j.instruct(spec, scratch)
}

// instruct tells the worker what to become.
func (j *Jail) instruct(spec Spec, scratch uint64) error {
	t := task{Dir: filepath.Join(j.dir, "/function", spec.Name), Tmp: filepath.Join(j.dir, "/tmp"), Output: spec.Output,
		Mute: !spec.Print, Check: spec.Check, Limits: map[string]uint64{}}
	for name, value := range map[string]uint64{"DATA": spec.Limits.Memory, "FSIZE": scratch, "NOFILE": spec.Limits.Files} {
		if value != 0 {
			t.Limits[name] = value
		}
	}
	// Counted per user namespace, or per user where jails have users of their own; otherwise the limit would be the user's.
	if procs := spec.Limits.Procs; procs != 0 && (j.id != 0 || !j.sandbox.plain) {
		t.Limits["NPROC"] = procs + ownProcs
	}
	body, err := json.Marshal(t)
	if err == nil {
		err = j.send('g', body)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrSetup, err)
	}
	if !spec.Print {
		j.Stdout.Close()
		j.Stderr.Close()
		j.Stdout, j.Stderr = nil, nil
	}
	j.given = true
	j.watch()
	return nil
}

// ownProcs is room for the keeper, which counts as a process too.
const ownProcs = 1

// begin notes that a jail is being built, which Close waits for; false when the sandbox was closed.
func (s *Sandbox) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.building.Add(1)
	}
	return !s.closed
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

// Memory is how much of the machine's memory the worker has in use, in bytes; 0 when it is gone.
func (j *Jail) Memory() uint64 {
	data, err := os.ReadFile(j.worker.path("statm"))
	if err != nil {
		return 0
	}
	var all, resident uint64
	if _, err := fmt.Sscan(string(data), &all, &resident); err != nil {
		return 0
	}
	return resident * uint64(os.Getpagesize())
}

// Freezes says whether Freeze works.
func (j *Jail) Freezes() bool { return !j.sandbox.plain }

// Freeze stops every process of the jail, Thaw lets them go on. Without namespaces they do nothing.
func (j *Jail) Freeze() error { return j.control.send(order{Do: "freeze"}) }

// Thaw undoes Freeze.
func (j *Jail) Thaw() error { return j.control.send(order{Do: "thaw"}) }

// watch waits for the end of the jail, once it has one.
func (j *Jail) watch() { j.waiting.Do(func() { go j.wait() }) }

func (j *Jail) wait() {
	last, _, err := j.control.receive()
	ours := j.asked.Load() && syscall.Signal(last.Signal) == syscall.SIGKILL
	if err == nil && last.Ended && !ours {
		j.exit = Exit{Code: last.Code, Signal: syscall.Signal(last.Signal)}
	} else {
		j.exit = Exit{Killed: true}
	}
	if j.keeper != nil {
		j.keeper.wait()
	}
	j.exit.OutOfMemory = j.group.outOfMemory()
	j.err = j.release()
	close(j.done)
}

// release lets go of everything; the jail's processes are gone.
func (j *Jail) release() error {
	s := j.sandbox
	errs := []error{j.group.remove()}
	if j.control != nil {
		errs = append(errs, j.control.conn.Close())
	}
	for _, p := range []*process{j.keeper, j.worker} {
		if p != nil {
			errs = append(errs, p.close())
		}
	}
	for _, f := range []*os.File{j.In, j.Out, j.Stdout, j.Stderr} {
		if f != nil && !j.given {
			f.Close()
		}
	}
	for _, dir := range []string{j.dir, j.devices} {
		if dir != "" {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	if j.id != 0 {
		s.users.giveBack(j.id)
	}
	s.mu.Lock()
	delete(s.jails, j)
	s.mu.Unlock()
	j.server.leave()
	return errors.Join(errs...)
}

// Done is closed when nothing of the jail is left.
func (j *Jail) Done() <-chan struct{} { return j.done }

// Exit says how it ended; valid after Done.
func (j *Jail) Exit() Exit { return j.exit }

// Close ends every process of the jail and waits until nothing of it is left.
// The files are the caller's to close.
func (j *Jail) Close() error {
	j.end()
	<-j.done
	return j.err
}

// end begins the end. With namespaces the kernel ends all processes with the
// keeper; without, the keeper must be given time to find them.
func (j *Jail) end() {
	j.ending.Do(func() {
		j.asked.Store(true)
		if j.keeper != nil && !j.sandbox.plain {
			j.keeper.kill()
		} else if j.control != nil {
			j.control.conn.CloseWrite()
			time.AfterFunc(5*time.Second, func() {
				if j.keeper != nil {
					j.keeper.kill()
				}
			})
		}
	})
	j.watch()
}
