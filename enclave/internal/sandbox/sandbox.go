package sandbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"
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

// setupTime bounds the building of one jail.
const setupTime = 30 * time.Second

// Config says how jails are built.
type Config struct {
	// Dir is a directory that belongs to this Sandbox alone; mount points and, where
	// namespaces cannot be had, private copies of functions live below it. New
	// removes what a runtime that was killed left there.
	Dir string
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
	dir    string // made by New, removed by Close
	root   string // mount point below dir
	plain  string // where jails without namespaces have their folders
	ns     namespaces
	copy   bool // overlayfs does not work
	users  *users
	groups *cgroups
	layers []Layer
	null   *os.File
	spawn  chan spawnRequest
	quit   chan struct{} // closed by Close

	mu     sync.Mutex
	closed bool
	jails  map[*Jail]struct{}
}

// New finds out what this machine can do, by building a jail. Errors: ErrLayer
// unless AllowDegraded, ErrSetup.
func New(cfg Config) (*Sandbox, error) {
	return open(cfg, []namespaces{{all: true, user: true}, {all: true}, {}})
}

// open tries kinds of namespaces in turn; the last is none at all.
func open(cfg Config, kinds []namespaces) (*Sandbox, error) {
	removeStale(cfg.Dir)
	dir, err := os.MkdirTemp(cfg.Dir, ownPrefix)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	root := filepath.Join(dir, "root")
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err = errors.Join(err, os.Mkdir(root, 0o700)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSetup, errors.Join(err, os.RemoveAll(dir)))
	}
	users, whyUsers := newUsers(uint64(rand.Uint32()))
	s := &Sandbox{dir: dir, root: root, plain: dir, null: null, users: users, spawn: make(chan spawnRequest), quit: make(chan struct{}), jails: map[*Jail]struct{}{}}
	go spawner(s.spawn, s.quit)
	s.groups = currentCgroups()
	if err := s.probe(kinds, whyUsers); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.missing(); err != nil && !cfg.AllowDegraded {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
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
		os.RemoveAll(d)
	}
}

func currentCgroups() *cgroups {
	mountinfo, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return &cgroups{whyM: err.Error(), whyP: err.Error()}
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return &cgroups{whyM: err.Error(), whyP: err.Error()}
	}
	c := findCgroups(string(mountinfo), string(own))
	c.try()
	return c
}

// Layers lists every defence in a fixed order.
func (s *Sandbox) Layers() []Layer { return append([]Layer(nil), s.layers...) }

// missing returns an ErrLayer that names every layer that is off.
func (s *Sandbox) missing() error {
	var errs []error
	for _, l := range s.layers {
		if !l.On {
			errs = append(errs, fmt.Errorf("%w: %s: %s", ErrLayer, l.Name, l.Why))
		}
	}
	return errors.Join(errs...)
}

// Close ends all jails and waits until nothing of them is left.
func (s *Sandbox) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	var jails []*Jail
	for j := range s.jails {
		jails = append(jails, j)
	}
	s.mu.Unlock()
	var errs []error
	for _, j := range jails {
		j.end()
	}
	for _, j := range jails {
		errs = append(errs, j.Close())
	}
	close(s.quit)
	return errors.Join(append(errs, s.null.Close(), os.RemoveAll(s.dir), os.RemoveAll(s.plain))...)
}

// probe builds a jail of each kind until one works, and fills in s.layers.
func (s *Sandbox) probe(kinds []namespaces, whyUsers string) error {
	var why error
	for _, kind := range kinds {
		if kind.all && !kind.user && os.Geteuid() != 0 {
			continue
		}
		s.ns, s.copy = kind, false
		if err := s.choosePlain(); err != nil {
			return err
		}
		r, err := s.probeOnce()
		if err != nil && kind.all && r.NoOverlay != "" {
			s.copy = true
			noOverlay := r.NoOverlay
			r, err = s.probeOnce()
			r.NoOverlay = noOverlay
		}
		if err == nil {
			s.describe(r, why, whyUsers)
			return nil
		}
		why = errors.Join(why, err)
	}
	return why
}

// choosePlain finds a place for jails without namespaces. The runtime's own
// folder lets no other user pass, so those with users of their own need another.
func (s *Sandbox) choosePlain() (err error) {
	if s.ns.all || !s.users.own() {
		return nil
	}
	if s.plain, err = os.MkdirTemp("", "cape-jails-"); err != nil {
		return fmt.Errorf("%w: %w", ErrSetup, err)
	}
	return os.Chmod(s.plain, 0o711)
}

// probeOnce builds a jail around an empty function, and runs nothing in it.
func (s *Sandbox) probeOnce() (report, error) {
	tree, err := os.MkdirTemp(s.dir, "probe-")
	if err != nil {
		return report{}, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	defer os.Remove(tree)
	ctx, cancel := context.WithTimeout(context.Background(), setupTime)
	defer cancel()
	j, err := s.start(ctx, Spec{Tree: tree, Name: "probe", Limits: Limits{Memory: 256 << 20, Scratch: 1 << 20, Procs: 16}}, true)
	if j == nil {
		return report{}, err
	}
	<-j.Done()
	return j.report, err
}

// describe turns what a probe said into the table of layers.
func (s *Sandbox) describe(r report, why error, whyUsers string) {
	add := func(name string, on bool, reason string) {
		l := Layer{Name: name, On: on}
		if !on {
			l.Why = reason
		}
		s.layers = append(s.layers, l)
	}
	reason := "not asked for"
	if why != nil {
		reason = why.Error()
	}
	add("user namespace", s.ns.user, reason)
	for _, name := range []string{"pid namespace", "mount namespace", "network namespace", "ipc namespace", "uts namespace", "cgroup namespace"} {
		add(name, s.ns.all, reason)
	}
	add("read-only root", s.ns.all, reason)
	add("old root detached", s.ns.all && r.NoPivot == "", r.NoPivot)
	add("no further user namespaces", r.Nested == "", r.Nested)
	add("own user for each jail", s.users.own(), whyUsers)
	add("no_new_privs", true, "")
	add("no capabilities", s.ns.all || s.users.own() || os.Geteuid() != 0, "without namespaces or another user, the program has the runtime's")
	add("rlimits", true, "")
	add("memory cgroup", s.groups.memory != "", s.groups.whyM)
	add("pids cgroup", s.groups.pids != "", s.groups.whyP)
}
