package sandbox

import (
	"context"
	"errors"
	"io/fs"
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
	built   bool        // guarded by the sandbox's mu
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
			s.use(spec)
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
	s.use(spec)
	return j, nil
}

// use notes that functions have begun to come.
func (s *Sandbox) use(spec Spec) {
	if !spec.Check {
		s.using.Do(func() { close(s.used) })
	}
}

// ownProcs is room for the keeper, which counts as a process too.
const ownProcs = 1

// Memory is how much of the machine's memory the jail has in use, in bytes, its file system included. Where no cgroup counts, it is 0.
func (j *Jail) Memory() uint64 { return j.group.memory() }

// Freezes says whether Freeze works.
func (s *Sandbox) Freezes() bool { return !s.plain && s.groups.dirs[freezer] != "" }

// Freeze stops every process of the jail, whatever they do about it, and returns when they have stopped. Thaw lets them go on.
func (j *Jail) Freeze() error { return j.group.freeze() }

// Thaw undoes Freeze.
func (j *Jail) Thaw() error { return j.group.thaw() }

// Alive says whether the worker is there still: a frozen jail does not notice its death.
func (j *Jail) Alive() bool { return !j.worker.gone() }

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
			errs = append(errs, removeAll(dir))
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

// removeAll removes a folder of a function's: it may have closed folders, and put more of them into each other than can be open at
// once. So what is in one moves up.
func removeAll(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return os.RemoveAll(dir)
	}
	defer root.Close()
	for {
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) == 0 {
			return errors.Join(err, os.Remove(dir))
		}
		for _, e := range entries {
			if e.IsDir() {
				root.Chmod(e.Name(), 0o700)
				below, _ := fs.ReadDir(root.FS(), e.Name())
				for _, b := range below {
					if from := filepath.Join(e.Name(), b.Name()); root.Remove(from) != nil {
						root.Chmod(from, 0o700)
						root.Rename(from, randomName())
					}
				}
			}
			if err := root.Remove(e.Name()); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
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
