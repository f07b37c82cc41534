package sandbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Sentinels.
var (
	// ErrLayer: a layer of the jail cannot be had on this machine.
	ErrLayer = errors.New("a layer of the jail cannot be had")
	// ErrSetup: the jail could not be built, for a reason outside the program.
	ErrSetup = errors.New("building the jail failed")
	// ErrClosed: the sandbox was closed.
	ErrClosed = errors.New("sandbox is closed")
)

const (
	// setupTime bounds the building of one jail.
	setupTime = 30 * time.Second
	// defaultScratch is the private file system of a jail that waits for its function, in bytes.
	defaultScratch = 1 << 30
	// builders build jails ahead; each holds one more than the pool does.
	builders = 2
	// retry is how long a builder rests after a failure.
	retry = time.Second
)

// Config says how jails are built.
type Config struct {
	// Dir is a directory that belongs to this Sandbox alone; mount points and, where
	// namespaces cannot be had, private copies of functions live below it. New
	// removes what a runtime that was killed left there.
	Dir string
	// Trees is a directory below which every function's folder lies. Jails see it until they have their own.
	Trees string
	// Server is the command line of the fork server: the interpreter, by absolute path, and its arguments.
	Server []string
	// ReadOnly are directories that every jail sees at the same path, besides the system's: the interpreter's.
	ReadOnly []string
	// Spare is how many jails are built ahead; 0: as many as there are processors, and two.
	Spare int
	// Try, if set, is given the first jail, a judge of sources, which ends after it; its error is New's.
	Try func(*Jail) error
	// AllowDegraded goes on without layers that this machine cannot have. Layers
	// tells which.
	AllowDegraded bool
}

// Layer is one defence, and whether it is in force.
type Layer struct {
	Name string
	On   bool
	Why  string // what is missing, when it is off
}

// Sandbox builds jails. It is safe for concurrent use.
type Sandbox struct {
	cfg    Config
	dir    string // made by New, removed by Close
	root   string // mount point below dir
	bare   string // where jails without namespaces have their folders
	trees  string // Config.Trees without links
	plain  bool   // no namespaces
	copy   bool   // overlayfs does not work
	view   *view
	users  *users
	groups *cgroups
	// whyDevices says why jails have no device nodes of their own.
	whyDevices string
	layers     []Layer
	null       *os.File
	quit       chan struct{} // closed by Close
	ready      chan *Jail    // built, and waiting for what they are to become
	used       chan struct{} // closed by the first function
	using      sync.Once

	building sync.WaitGroup // builders, and whoever builds a jail
	renewing sync.Mutex
	current  *server // what forks; renewing is held

	mu     sync.Mutex
	closed bool
	jails  map[*Jail]struct{}
}

// New finds out what this machine can do, by building jails, and begins to build some ahead. Errors: ErrLayer
// unless AllowDegraded, ErrSetup.
func New(cfg Config) (*Sandbox, error) {
	if cfg.Spare == 0 {
		cfg.Spare = runtime.NumCPU() + 2
	}
	s := &Sandbox{cfg: cfg, quit: make(chan struct{}), used: make(chan struct{}), ready: make(chan *Jail, cfg.Spare), jails: map[*Jail]struct{}{}}
	if err := s.prepare(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.dir))
	}
	var whyUsers string
	s.users, whyUsers = newUsers(uint64(rand.Uint32()))
	s.groups = currentCgroups(filepath.Join(s.dir, cgroupFolder))
	if err := s.mountDevices(); err != nil {
		s.whyDevices = err.Error()
	}
	j, err := s.probe(whyUsers)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if !cfg.AllowDegraded {
		err = s.missing()
	}
	if err == nil && cfg.Try != nil {
		err = cfg.Try(j)
	}
	if err = errors.Join(err, j.Close()); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	for n := range builders {
		s.building.Go(func() { s.build(n == 0) })
	}
	return s, nil
}

// prepare makes the sandbox's own folder and finds out what jails are to see.
func (s *Sandbox) prepare() (err error) {
	removeStale(s.cfg.Dir)
	if s.dir, err = os.MkdirTemp(s.cfg.Dir, ownPrefix); err != nil {
		return fmt.Errorf("%w: %w", ErrSetup, err)
	}
	for _, p := range []*string{&s.dir, &s.cfg.Trees} {
		if *p, err = filepath.EvalSymlinks(*p); err != nil {
			return fmt.Errorf("%w: %w", ErrSetup, err)
		}
		if *p, err = filepath.Abs(*p); err != nil {
			return fmt.Errorf("%w: %w", ErrSetup, err)
		}
	}
	s.root, s.bare, s.trees = filepath.Join(s.dir, "root"), s.dir, s.cfg.Trees
	s.view, err = newView(s.cfg.ReadOnly)
	if err == nil {
		s.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0)
	}
	if err = errors.Join(err, os.Mkdir(s.root, 0o700)); err != nil {
		return fmt.Errorf("%w: %w", ErrSetup, err)
	}
	return s.view.check(s.dir, s.trees)
}

// ownPrefix names the folders of sandboxes.
const ownPrefix = "sandbox-"

// removeStale removes folders of an earlier sandbox. Failing is no harm: they
// hold nothing that a later one uses.
func removeStale(dir string) {
	stale, err := filepath.Glob(filepath.Join(dir, ownPrefix+"*"))
	if err != nil {
		return
	}
	for _, d := range stale {
		unmount(d)
		os.RemoveAll(d)
	}
}

// currentCgroups finds what there is. Version 2 is in every kernel: where it is mounted nowhere, it is mounted at dir, to freeze by it.
func currentCgroups(dir string) *cgroups {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err == nil && !strings.Contains(string(mountinfo), " - cgroup2 ") && os.Mkdir(dir, 0o700) == nil &&
		unix.Mount("cape", dir, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "") == nil {
		mountinfo, err = os.ReadFile("/proc/self/mountinfo")
	}
	own, err2 := os.ReadFile("/proc/self/cgroup")
	if err := errors.Join(err, err2); err != nil {
		return &cgroups{why: map[string]string{"memory": err.Error(), "pids": err.Error(), "cpu": err.Error(), freezer: err.Error()}}
	}
	c := findCgroups(string(mountinfo), string(own))
	c.try()
	return c
}

// build keeps the pool of waiting jails full. Before the first function only one builder builds, and one jail: the machine is busy
// with its start.
func (s *Sandbox) build(one bool) {
	for ; ; one = false {
		if !one {
			select {
			case <-s.used:
			case <-s.quit:
				return
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), setupTime)
		j, err := s.newJail(ctx)
		cancel()
		if err != nil {
			select {
			case <-s.quit:
				return
			case <-time.After(retry):
				continue
			}
		}
		select {
		case s.ready <- j:
		case <-s.quit:
			j.end()
			return
		}
	}
}

// workerID is the user that the worker has, seen from inside.
func (s *Sandbox) workerID() int {
	if s.plain {
		return os.Getuid()
	}
	return innerID
}

// Close ends all jails and waits until nothing of them is left.
func (s *Sandbox) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	close(s.quit)
	jails := make([]*Jail, 0, len(s.jails))
	for j := range s.jails {
		if j.built {
			jails = append(jails, j)
		}
	}
	s.mu.Unlock()
	for _, j := range jails {
		j.end()
	}
	s.building.Wait()
	var errs []error
	for _, j := range jails {
		errs = append(errs, j.Close())
	}
	s.renewing.Lock()
	defer s.renewing.Unlock()
	if s.current != nil {
		s.current.retire()
	}
	unmount(s.dir)
	return errors.Join(append(errs, s.null.Close(), os.RemoveAll(s.dir), os.RemoveAll(s.bare))...)
}
