package sandbox

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// jailPrefix names the cgroups of jails, so that those of a runtime that was
// killed can be found.
const jailPrefix = "cape-jail-"

// cgroups are the hierarchies in which jails can be bounded. With version 2
// both directories are the same one.
type cgroups struct {
	v2           bool
	prefix       string // of the names of this runtime's jails
	memory, pids string // the runtime's own cgroup there; empty: cannot be had
	whyM, whyP   string
}

// findCgroups reads where this process stands. Its arguments are the texts of
// /proc/self/mountinfo and /proc/self/cgroup.
func findCgroups(mountinfo, own string) *cgroups {
	paths := map[string]string{}
	for line := range strings.Lines(own) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 {
			for c := range strings.SplitSeq(parts[1], ",") {
				paths[c] = parts[2]
			}
		}
	}
	found := map[string]string{}
	for line := range strings.Lines(mountinfo) {
		left, right, ok := strings.Cut(strings.TrimSpace(line), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 5 || len(r) < 3 {
			continue
		}
		switch r[0] {
		case "cgroup2":
			found[""] = below(l[4], l[3], paths[""])
		case "cgroup":
			for option := range strings.SplitSeq(r[2], ",") {
				if option == "memory" || option == "pids" {
					found[option] = below(l[4], l[3], paths[option])
				}
			}
		}
	}
	if found["memory"] != "" || found["pids"] != "" {
		return &cgroups{memory: found["memory"], pids: found["pids"]}
	}
	return &cgroups{v2: found[""] != "", memory: found[""], pids: found[""]}
}

// below is the directory of a cgroup in a mount that shows the hierarchy from
// root downwards.
func below(mount, root, path string) string {
	rel, err := filepath.Rel(root, path)
	if err != nil || !filepath.IsLocal(rel) {
		rel = "."
	}
	return filepath.Join(mount, rel)
}

// try makes a cgroup as a jail would get it, and keeps of c what worked.
func (c *cgroups) try() {
	c.whyM, c.whyP = "no memory cgroup is mounted here", "no pids cgroup is mounted here"
	if c.v2 && c.memory != "" {
		if err := enable(c.memory); err != nil {
			c.memory, c.pids, c.whyM, c.whyP = "", "", err.Error(), err.Error()
			return
		}
	}
	c.prefix = jailPrefix + randomName() + "-"
	both := *c
	probe := Limits{Memory: 64 << 20, Procs: 64}
	for _, part := range []struct {
		dir, why *string
		alone    cgroups
	}{
		{&c.memory, &c.whyM, cgroups{v2: c.v2, prefix: c.prefix, memory: both.memory}},
		{&c.pids, &c.whyP, cgroups{v2: c.v2, prefix: c.prefix, pids: both.pids}},
	} {
		if *part.dir == "" {
			continue
		}
		part.alone.sweep(jailPrefix, time.Minute)
		g, err := part.alone.create(probe)
		if err == nil {
			err = g.remove()
		}
		if err != nil {
			*part.dir, *part.why = "", err.Error()
		}
	}
}

// enable hands the two controllers of version 2 to the cgroups below dir.
func enable(dir string) error {
	control := filepath.Join(dir, "cgroup.subtree_control")
	data, err := os.ReadFile(control)
	if err != nil {
		return err
	}
	on := strings.Fields(string(data))
	if slices.Contains(on, "memory") && slices.Contains(on, "pids") {
		return nil
	}
	return os.WriteFile(control, []byte("+memory +pids"), 0)
}

// sweep removes cgroups whose names begin with prefix, of jails whose runtime was killed. Only empty ones can
// be removed; those younger than age may be another runtime's, empty for a moment.
func (c *cgroups) sweep(prefix string, age time.Duration) {
	for _, parent := range []string{c.memory, c.pids} {
		if parent == "" {
			continue
		}
		dirs, err := filepath.Glob(filepath.Join(parent, prefix+"*"))
		if err != nil {
			continue
		}
		for _, dir := range dirs {
			if info, err := os.Stat(dir); err == nil && time.Since(info.ModTime()) >= age {
				os.Remove(dir)
			}
		}
	}
}

// group is the cgroup of one jail. The zero value bounds nothing.
type group struct {
	v2   bool
	dirs []string
	oom  string // file that counts processes ended for want of memory
}

// create makes a cgroup with limits l.
func (c *cgroups) create(l Limits) (*group, error) {
	g := &group{v2: c.v2}
	name := c.prefix + randomName()
	set := map[string]uint64{}
	for _, parent := range []string{c.memory, c.pids} {
		if dir := filepath.Join(parent, name); parent != "" && !slices.Contains(g.dirs, dir) {
			if err := os.Mkdir(dir, 0o755); err != nil {
				return nil, errors.Join(err, g.remove())
			}
			g.dirs = append(g.dirs, dir)
		}
	}
	if c.pids != "" && l.Procs != 0 {
		set[filepath.Join(c.pids, name, "pids.max")] = l.Procs + ownThreads
	}
	if c.memory != "" {
		limit := "memory.limit_in_bytes"
		g.oom = filepath.Join(c.memory, name, "memory.oom_control")
		if c.v2 {
			limit, g.oom = "memory.max", filepath.Join(c.memory, name, "memory.events")
		}
		if l.Memory != 0 {
			set[filepath.Join(c.memory, name, limit)] = l.Memory
		}
	}
	for file, value := range set {
		if err := os.WriteFile(file, []byte(strconv.FormatUint(value, 10)), 0); err != nil {
			return nil, errors.Join(fmt.Errorf("limiting a cgroup: %w", err), g.remove())
		}
	}
	if c.memory != "" && l.Memory != 0 {
		g.forbidSwap(filepath.Join(c.memory, name), l.Memory)
	}
	return g, nil
}

// forbidSwap keeps plaintext out of swap, where the kernel counts swap at all.
func (g *group) forbidSwap(dir string, memory uint64) {
	file, value := "memory.memsw.limit_in_bytes", memory
	if g.v2 {
		file, value = "memory.swap.max", 0
	}
	file = filepath.Join(dir, file)
	if _, err := os.Stat(file); err == nil {
		os.WriteFile(file, []byte(strconv.FormatUint(value, 10)), 0)
	}
}

func randomName() string {
	var id [8]byte
	rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

// add moves a process into the group.
func (g *group) add(pid int) error {
	for _, dir := range g.dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("entering a cgroup: %w", err)
		}
	}
	return nil
}

// outOfMemory says whether the kernel ended a process of the group.
func (g *group) outOfMemory() bool {
	data, err := os.ReadFile(g.oom)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "oom_kill" {
			return f[1] != "0"
		}
	}
	return false
}

// remove removes the group, whose processes are dead. The kernel may need a
// moment to notice.
func (g *group) remove() error {
	var failed []error
	for _, dir := range g.dirs {
		err := os.Remove(dir)
		for wait := time.Millisecond; err != nil && !errors.Is(err, os.ErrNotExist) && wait < 2*time.Second; wait *= 2 {
			time.Sleep(wait)
			err = os.Remove(dir)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}
