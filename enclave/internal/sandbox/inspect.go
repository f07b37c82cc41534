package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// errDiffers: a worker is not what it says it is.
var errDiffers = errors.New("the worker is not what it should be")

func differs(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errDiffers, fmt.Sprintf(format, args...))
}

// namespaces are a process's, by kind, as the kernel names them.
type namespaces map[string]string

var namespaceKinds = []string{"user", "pid", "mnt", "net", "ipc", "uts", "cgroup"}

// readNamespaces reads those of a process; dir is its folder in /proc.
func readNamespaces(dir string) (namespaces, error) {
	n := namespaces{}
	for _, kind := range namespaceKinds {
		name, err := os.Readlink(filepath.Join(dir, "ns", kind))
		if err != nil {
			return nil, err
		}
		n[kind] = name
	}
	return n, nil
}

// inspect looks at the worker from outside, before any byte of a function is near it. Whatever the worker says of itself counts
// for nothing here: the kernel is asked.
func (j *Jail) inspect() error {
	if err := j.inspectStatus(); err != nil {
		return err
	}
	if err := j.inspectFiles(); err != nil {
		return err
	}
	if err := j.inspectGroups(); err != nil {
		return err
	}
	if j.sandbox.plain {
		return nil
	}
	return j.inspectNamespaces()
}

// user is the worker's user, seen from here.
func (j *Jail) user() uint64 {
	if j.id != 0 {
		return j.id
	}
	return uint64(os.Getuid())
}

// inspectStatus reads users, capabilities, no_new_privs and seccomp.
func (j *Jail) inspectStatus() error {
	data, err := os.ReadFile(j.worker.path("status"))
	if err != nil {
		return err
	}
	status := map[string]string{}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		status[name] = strings.Join(strings.Fields(value), " ")
	}
	user, group := strconv.FormatUint(j.user(), 10), strconv.Itoa(os.Getgid())
	if j.id != 0 {
		group = user
	}
	four := func(id string) string { return strings.Join([]string{id, id, id, id}, " ") }
	want := map[string]string{"Uid": four(user), "Gid": four(group), "NoNewPrivs": "1", "Seccomp": "2", "Threads": "1"}
	if j.id != 0 {
		want["Groups"] = ""
	}
	sets := []string{"CapInh", "CapPrm", "CapEff", "CapAmb"}
	if !j.sandbox.plain {
		sets = append(sets, "CapBnd")
	}
	for name, value := range want {
		if status[name] != value {
			return differs("%s is %q, not %q", name, status[name], value)
		}
	}
	for _, name := range sets {
		if value, ok := status[name]; !ok || strings.Trim(value, "0") != "" {
			return differs("%s is %s", name, value)
		}
	}
	return nil
}

// inspectFiles makes sure that the worker has the descriptors that it was given, and no other.
func (j *Jail) inspectFiles() error {
	want := map[string]string{"0": os.DevNull}
	for name, ours := range map[string]*os.File{"1": j.Stdout, "2": j.Stderr, "3": j.In, "4": j.Out} {
		info, err := ours.Stat()
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return differs("descriptor %s cannot be compared", name)
		}
		want[name] = fmt.Sprintf("pipe:[%d]", st.Ino)
	}
	entries, err := os.ReadDir(j.worker.path("fd"))
	if err != nil {
		return err
	}
	if len(entries) != len(want) {
		return differs("it has %d descriptors", len(entries))
	}
	for _, e := range entries {
		target, err := os.Readlink(j.worker.path("fd/" + e.Name()))
		if err != nil {
			return err
		}
		if target != want[e.Name()] {
			return differs("descriptor %s is %s", e.Name(), target)
		}
	}
	return nil
}

// inspectGroups makes sure that the worker is in its jail's cgroup.
func (j *Jail) inspectGroups() error {
	if len(j.group.dirs) == 0 {
		return nil
	}
	data, err := os.ReadFile(j.worker.path("cgroup"))
	if err != nil {
		return err
	}
	for controller, dir := range j.group.dirs {
		in := false
		for line := range strings.Lines(string(data)) {
			parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
			if len(parts) == 3 && (j.group.unified(dir) && parts[1] == "" || slices.Contains(strings.Split(parts[1], ","), controller)) {
				in = in || filepath.Base(parts[2]) == filepath.Base(dir)
			}
		}
		if !in {
			return differs("it is not in its %s cgroup", controller)
		}
	}
	return nil
}

// inspectNamespaces makes sure that each is the worker's own: neither this process's nor that of another jail.
func (j *Jail) inspectNamespaces() error {
	ours, err := readNamespaces("/proc/self")
	if err != nil {
		return err
	}
	theirs, err := readNamespaces(j.worker.path(""))
	if err != nil {
		return err
	}
	s := j.sandbox
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, kind := range namespaceKinds {
		if theirs[kind] == ours[kind] {
			return differs("its %s namespace is the runtime's", kind)
		}
		if theirs[kind] == j.server.seen[kind] {
			return differs("its %s namespace is the fork server's", kind)
		}
		for other := range s.jails {
			if other != j && other.seen[kind] == theirs[kind] && other.has(kind) {
				return differs("its %s namespace is another jail's", kind)
			}
		}
	}
	j.seen = theirs
	return j.mounts()
}

// has says whether the worker still has the namespace that it was seen in: the kernel uses names of those that are gone again.
func (j *Jail) has(kind string) bool {
	now, err := readNamespaces(j.worker.path(""))
	return err == nil && now[kind] == j.seen[kind]
}

// inspectMounts looks again when the function is in its place; name is its folder's.
func (j *Jail) inspectMounts(name string) error {
	if j.sandbox.plain {
		return nil
	}
	return j.mounts("/function/" + name)
}

// mounts makes sure that the worker sees what it should, and can write only to its own file system.
func (j *Jail) mounts(own ...string) error {
	data, err := os.ReadFile(j.worker.path("mountinfo"))
	if err != nil {
		return err
	}
	furnished := len(own) > 0
	own = append(own, "/tmp", "/dev/shm")
	if !furnished { // what furnishing needs
		own = append(own, "/function", "/.scratch", "/.trees")
	}
	shown := append([]string{"/", "/function", "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"}, j.sandbox.view.show...)
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), " ")
		if len(f) < 6 {
			return differs("mount %q", line)
		}
		place, readOnly := unescape(f[4]), slices.Contains(strings.Split(f[5], ","), "ro")
		below := slices.ContainsFunc(j.sandbox.view.show, func(p string) bool { return strings.HasPrefix(place, p+"/") })
		switch {
		case slices.Contains(own, place), !furnished && strings.HasPrefix(place, "/.trees/"):
		case !slices.Contains(shown, place) && !below:
			return differs("it sees a mount at %s", place)
		case !readOnly:
			return differs("it can write below %s", place)
		case !j.hasOwn(place, f):
			return differs("what it sees at %s is shared with others", place)
		}
	}
	return nil
}

// hasOwn tells whether the files at a place are the jail's own as far as locks and watches go: a device node that was made
// for it, or an overlay. f is the mount as mountinfo tells it.
func (j *Jail) hasOwn(place string, f []string) bool {
	if name, ok := strings.CutPrefix(place, "/dev/"); ok {
		return j.devices == "" || unescape(f[3]) == filepath.Join("/", filepath.Base(j.devices), name)
	}
	kind := slices.Index(f, "-") + 1
	return j.missing["locks"] != "" || place == "/function" || kind < len(f) && f[kind] == "overlay"
}

// unescape undoes how mountinfo writes blanks and the like.
func unescape(s string) string {
	for _, c := range []byte(" \t\n\\") {
		s = strings.ReplaceAll(s, fmt.Sprintf("\\%03o", c), string(c))
	}
	return s
}
