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
	"time"
)

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
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // until it is built, it is nobody's but the builder's to end
		select {
		case <-s.quit:
			cancel()
		case <-ctx.Done():
		}
	}()
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
	if err == nil && !s.finish(j) {
		err = ErrClosed
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
	o := order{Dir: j.dir, ID: -1, Tree: tree, Name: spec.Name, Scratch: scratch, Copy: s.copy}
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

// finish notes that j is built; false when the sandbox was closed meanwhile.
func (s *Sandbox) finish(j *Jail) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	j.built = true
	return !s.closed
}
