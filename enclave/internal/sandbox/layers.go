package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
)

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

// probe builds a jail of each kind until one works, and fills in s.layers.
func (s *Sandbox) probe(whyUsers string) (*Jail, error) {
	var why error
	for _, plain := range []bool{false, true} {
		s.plain, s.copy = plain, plain
		if err := s.chooseBare(); err != nil {
			return nil, err
		}
		j, err := s.probeOnce()
		if err != nil && !plain && !s.copy && errors.Is(err, errFurnish) {
			s.copy = true
			j, err = s.probeOnce()
		}
		if err == nil {
			s.describe(j, why, whyUsers)
			return j, nil
		}
		why = errors.Join(why, err)
		if s.current != nil {
			s.current.retire()
			s.current = nil
		}
	}
	return nil, why
}

// chooseBare finds a place for jails without namespaces. The runtime's own
// folder lets no other user pass, so those with users of their own need another.
func (s *Sandbox) chooseBare() (err error) {
	if !s.plain || !s.users.own() {
		return nil
	}
	if s.bare, err = os.MkdirTemp("", "cape-jails-"); err != nil {
		return fmt.Errorf("%w: %w", ErrSetup, err)
	}
	return os.Chmod(s.bare, 0o711)
}

// probeOnce builds a jail around an empty function: a judge of sources.
func (s *Sandbox) probeOnce() (*Jail, error) {
	tree, err := os.MkdirTemp(s.trees, "probe-")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSetup, err)
	}
	defer os.Remove(tree)
	ctx, cancel := context.WithTimeout(context.Background(), setupTime)
	defer cancel()
	j, err := s.newJail(ctx)
	if err != nil {
		return nil, err
	}
	err = j.become(ctx, Spec{Tree: tree, Name: "probe", Check: true, Limits: Limits{Memory: 256 << 20, Scratch: 1 << 20, Procs: 16}})
	if err != nil {
		return nil, errors.Join(err, j.Close())
	}
	return j, nil
}

// describe turns what building a jail said into the table of layers.
func (s *Sandbox) describe(j *Jail, why error, whyUsers string) {
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
	for _, name := range []string{"user", "pid", "mount", "network", "ipc", "uts", "cgroup"} {
		add(name+" namespace", !s.plain, reason)
	}
	nested, pivot, locks, devices := j.missing["nested"], j.missing["pivot"], j.missing["locks"], s.whyDevices
	if s.plain {
		nested, pivot, locks, devices = "no namespaces", "no namespaces", "no namespaces", "no namespaces"
	}
	add("read-only root", !s.plain, reason)
	add("old root detached", pivot == "", pivot)
	add("own locks and watches", locks == "", locks)
	add("own device nodes", devices == "", devices)
	add("no further user namespaces", nested == "", nested)
	add("own user for each jail", s.users.own(), whyUsers)
	add("no capabilities", !s.plain || s.users.own() || os.Geteuid() != 0, "without namespaces or another user, the program has the runtime's")
	add("no_new_privs", true, "")
	add("seccomp", true, "") // without it no jail is built at all
	add("landlock", j.server.landlock >= 1, "the kernel lacks it, or has it turned off")
	add("landlock for sockets and signals", j.server.landlock >= 6, fmt.Sprintf("the kernel's Landlock is of version %d, not 6", j.server.landlock))
	add("rlimits", true, "")
	for _, name := range controllers {
		_, on := s.groups.dirs[name]
		why := s.groups.why[name]
		if name == freezer {
			why = "no function has processes that wait for it: " + why
		}
		add(name+" cgroup", on, why)
	}
}
