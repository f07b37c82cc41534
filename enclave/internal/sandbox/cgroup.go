package sandbox

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// jailPrefix names the cgroups of jails, so that those of a runtime that was
// killed can be found.
const jailPrefix = "cape-jail-"

// controllers are what bounds a jail as a whole, and what freezes it: always by version 2, whose frozen processes can be killed.
var controllers = []string{"memory", "pids", "cpu", freezer}

const freezer = "freezer"

// cgroups are the hierarchies in which jails can be bounded. With version 2
// all directories are the same one.
type cgroups struct {
	v2     bool              // of memory, pids and cpu
	prefix string            // of the names of this runtime's jails
	dirs   map[string]string // by controller: the runtime's own cgroup there; those that cannot be had are not in it
	why    map[string]string // what is missing
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
				if option != freezer && slices.Contains(controllers, option) {
					found[option] = below(l[4], l[3], paths[option])
				}
			}
		}
	}
	unified, ok := found[""]
	delete(found, "")
	c := &cgroups{v2: ok && len(found) == 0, dirs: found}
	for _, name := range controllers {
		if ok && (c.v2 || name == freezer) {
			c.dirs[name] = unified
		}
	}
	return c
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
	c.prefix, c.why = jailPrefix+randomName()+"-", map[string]string{}
	probe := Limits{Memory: 64 << 20, Procs: 64, CPU: 1000}
	for _, name := range controllers {
		c.why[name] = "no " + name + " cgroup is mounted here" // a freezer is one of version 2
		dir, ok := c.dirs[name]
		if !ok {
			continue
		}
		alone := &cgroups{v2: c.v2, prefix: c.prefix, dirs: map[string]string{name: dir}}
		err := alone.enable(name)
		if err == nil {
			alone.sweep(jailPrefix, time.Minute)
			var g *group
			if g, err = alone.create(); err == nil {
				err = errors.Join(g.limit(probe), g.freeze(), g.thaw(), g.remove())
			}
		}
		if err != nil {
			delete(c.dirs, name)
			c.why[name] = err.Error()
		}
	}
}

// enable hands a controller of version 2 to the cgroups below the runtime's.
func (c *cgroups) enable(name string) error {
	if !c.v2 || name == freezer {
		return nil
	}
	control := filepath.Join(c.dirs[name], "cgroup.subtree_control")
	data, err := os.ReadFile(control)
	if err != nil || slices.Contains(strings.Fields(string(data)), name) {
		return err
	}
	return os.WriteFile(control, []byte("+"+name), 0)
}

// sweep removes cgroups whose names begin with prefix, of jails whose runtime was killed. Only empty ones can
// be removed; those younger than age may be another runtime's, empty for a moment.
func (c *cgroups) sweep(prefix string, age time.Duration) {
	for _, parent := range c.dirs {
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

// group is the cgroup of one jail, one folder a hierarchy. The zero value bounds nothing.
type group struct {
	v2   bool
	dirs map[string]string // by controller
}

// create makes a cgroup, without limits yet.
func (c *cgroups) create() (*group, error) {
	g := &group{v2: c.v2, dirs: map[string]string{}}
	name := c.prefix + randomName()
	for controller, parent := range c.dirs {
		dir := filepath.Join(parent, name)
		if !slices.Contains(g.folders(), dir) {
			if err := os.Mkdir(dir, 0o755); err != nil {
				return nil, errors.Join(err, g.remove())
			}
		}
		g.dirs[controller] = dir
	}
	return g, nil
}

// open opens what lets a process into the group: with version 2 the folder, for clone; with version 1 the files into which
// the process itself writes. Naming it from here would wait for a lock that takes the kernel milliseconds.
func (g *group) open() (files []*os.File, err error) {
	for _, dir := range g.folders() {
		var f *os.File
		if g.unified(dir) {
			f, err = os.Open(dir)
		} else {
			f, err = os.OpenFile(filepath.Join(dir, "tasks"), os.O_WRONLY, 0)
		}
		if err != nil {
			return files, fmt.Errorf("entering a cgroup: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}

// unified says whether a folder of the group's is of version 2.
func (g *group) unified(dir string) bool { return g.v2 || dir == g.dirs[freezer] }

// folders lists each folder once.
func (g *group) folders() []string {
	return slices.Compact(slices.Sorted(maps.Values(g.dirs)))
}

// cpuPeriod is the time, in microseconds, over which processor time is counted.
const cpuPeriod = 100_000

// set writes what a controller is to do, where there is that controller. The file's name is that of its version.
func (g *group) set(controller, v1, v2, value string) error {
	dir, ok := g.dirs[controller]
	if !ok {
		return nil
	}
	if g.unified(dir) {
		v1 = v2
	}
	if err := os.WriteFile(filepath.Join(dir, v1), []byte(value), 0); err != nil {
		return fmt.Errorf("limiting a cgroup: %w", err)
	}
	return nil
}

// limit bounds the group. Setting a limit twice is no harm.
func (g *group) limit(l Limits) error {
	var errs []error
	if l.Procs != 0 {
		errs = append(errs, g.set("pids", "pids.max", "pids.max", strconv.FormatUint(l.Procs+ownProcs, 10)))
	}
	if l.Memory != 0 {
		memory := min(l.Memory, mostMemory())
		errs = append(errs, g.set("memory", "memory.limit_in_bytes", "memory.max", strconv.FormatUint(memory, 10)))
		g.forbidSwap(memory)
	}
	if l.CPU != 0 {
		quota := strconv.FormatUint(max(l.CPU*cpuPeriod/1000, 1000), 10)
		errs = append(errs, g.set("cpu", "cpu.cfs_quota_us", "cpu.max", map[bool]string{false: quota, true: quota + " " + strconv.Itoa(cpuPeriod)}[g.v2]))
	}
	return errors.Join(errs...)
}

// mostMemory is what one jail may have, whatever its function may ask for: where the whole machine runs out, the kernel ends
// jails of others as well.
func mostMemory() uint64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return math.MaxUint64
	}
	return info.Totalram * uint64(info.Unit) / 4 * 3
}

// freezeTime is how long the kernel may take to stop a group.
const freezeTime = time.Second

// freeze stops every process of the group until thaw, and returns when they have stopped. No signal wakes them; killing ends them.
func (g *group) freeze() error {
	err := g.set(freezer, "", "cgroup.freeze", "1")
	for end := time.Now().Add(freezeTime); err == nil && g.dirs[freezer] != "" && g.read(freezer, "cgroup.events", "frozen ") != 1; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			err = errors.New("freezing a cgroup: its processes go on")
		}
	}
	return err
}

func (g *group) thaw() error { return g.set(freezer, "", "cgroup.freeze", "0") }

// read returns a number of a controller's file: that after key, or the first where key is empty; 0 when there is none.
func (g *group) read(controller, file, key string) (n uint64) {
	if dir, ok := g.dirs[controller]; ok {
		if data, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
			_, rest, _ := strings.Cut("\n"+string(data), "\n"+key)
			fmt.Sscan(rest, &n) // 0 when it is no number
		}
	}
	return n
}

// memory is how much the group has in use, in bytes: all but the files' content that the kernel can read again.
func (g *group) memory() uint64 {
	file := "memory.usage_in_bytes"
	if g.v2 {
		file = "memory.current"
	}
	all, files := g.read("memory", file, ""), g.read("memory", "memory.stat", "inactive_file ")+g.read("memory", "memory.stat", "active_file ")
	return all - min(files, all)
}

// forbidSwap keeps plaintext out of swap, where the kernel counts swap at all.
func (g *group) forbidSwap(memory uint64) {
	file, value := "memory.memsw.limit_in_bytes", memory
	if g.v2 {
		file, value = "memory.swap.max", 0
	}
	file = filepath.Join(g.dirs["memory"], file)
	if _, err := os.Stat(file); err == nil && g.dirs["memory"] != "" {
		os.WriteFile(file, []byte(strconv.FormatUint(value, 10)), 0)
	}
}

func randomName() string {
	var id [8]byte
	rand.Read(id[:]) // never fails
	return hex.EncodeToString(id[:])
}

// outOfMemory says whether the kernel ended a process of the group.
func (g *group) outOfMemory() bool {
	file := "memory.oom_control"
	if g.v2 {
		file = "memory.events"
	}
	return g.read("memory", file, "oom_kill ") != 0
}

// remove removes the group, whose processes are dead. The kernel may need a
// moment to notice.
func (g *group) remove() error {
	var failed []error
	for _, dir := range g.folders() {
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
