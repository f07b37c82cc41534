package sandbox

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPickRange(t *testing.T) {
	for _, c := range []struct {
		name       string
		all        []extent
		base, size uint64
		ok         bool
	}{
		{"the whole machine", []extent{{0, 1 << 32}}, preferredBase, idRange, true},
		{"a container", []extent{{0, 65536}}, 32768, 32768, true},
		{"one user", []extent{{0, 1}}, 0, 0, false},
		{"one user and some more", []extent{{0, 1}, {1, 65535}}, 1 + 32767, 32767, true},
		{"nothing", nil, 0, 0, false},
	} {
		base, size, ok := pickRange(c.all)
		if base != c.base || size != c.size || ok != c.ok {
			t.Errorf("%s: %d, %d, %v", c.name, base, size, ok)
		}
	}
}

func TestAttributes(t *testing.T) {
	own := &users{base: 5000, size: 1}
	for _, c := range []struct {
		name   string
		ns     namespaces
		u      *users
		inside int
		maps   int
		dies   bool // with the runtime
	}{
		{"own users", namespaces{true, true}, own, innerID, 2, true},
		{"no own users", namespaces{true, true}, &users{}, innerID, 1, true},
		{"no user namespace", namespaces{true, false}, own, 5000, 0, true},
		{"no namespaces", namespaces{}, &users{}, os.Getuid(), 0, false},
	} {
		a, inside := attributes(c.ns, c.u, 5000)
		if inside != c.inside || len(a.UidMappings) != c.maps || len(a.GidMappings) != c.maps || a.Cloneflags != c.ns.flags() || (a.Pdeathsig == syscall.SIGKILL) != c.dies {
			t.Errorf("%s: %d, %+v", c.name, inside, a)
		}
		for _, m := range a.UidMappings {
			if m.ContainerID == innerID && c.u.own() && m.HostID != 5000 {
				t.Errorf("%s: the program is user %d outside", c.name, m.HostID)
			}
		}
	}
}

func TestUsersAreDistinct(t *testing.T) {
	u := &users{base: nobody - 2, size: 4, taken: map[uint64]bool{}}
	seen := map[uint64]bool{}
	for range 3 {
		id, err := u.take()
		if err != nil || seen[id] || id == nobody {
			t.Fatalf("took %d, %v", id, err)
		}
		seen[id] = true
	}
	if id, err := u.take(); !errors.Is(err, ErrSetup) {
		t.Errorf("took %d, %v from an empty range", id, err)
	}
	u.giveBack(nobody - 1)
	if id, err := u.take(); err != nil || id != nobody-1 {
		t.Errorf("took %d, %v", id, err)
	}
}

func TestFindCgroups(t *testing.T) {
	v1 := `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 /docker/ab /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
`
	v2 := "30 23 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
	for _, c := range []struct {
		name, mounts, own string
		want              cgroups
	}{
		{"version 1", v1, "8:pids:/docker/ab/c\n4:memory:/user\n0::/\n", cgroups{memory: "/sys/fs/cgroup/memory/user", pids: "/sys/fs/cgroup/pids/c"}},
		{"version 1, mount of another cgroup", v1, "8:pids:/other\n4:memory:/\n", cgroups{memory: "/sys/fs/cgroup/memory", pids: "/sys/fs/cgroup/pids"}},
		{"version 2", v2, "0::/user.slice/x\n", cgroups{v2: true, memory: "/sys/fs/cgroup/user.slice/x", pids: "/sys/fs/cgroup/user.slice/x"}},
		{"none", "22 27 0:21 / /proc rw - proc proc rw\n", "", cgroups{}},
	} {
		got := findCgroups(c.mounts, c.own)
		if d := cmp.Diff(c.want, *got, cmp.AllowUnexported(cgroups{})); d != "" {
			t.Errorf("%s: %s", c.name, d)
		}
	}
}

// TestGroupV2 writes into a folder instead of a cgroup file system, which this
// machine may not have in that version.
func TestGroupV2(t *testing.T) {
	dir := t.TempDir()
	c := &cgroups{v2: true, memory: dir, pids: dir}
	g, err := c.create(Limits{Memory: 1 << 20, Procs: 5})
	if err != nil || len(g.dirs) != 1 {
		t.Fatalf("%+v, %v", g, err)
	}
	for file, want := range map[string]string{"memory.max": "1048576", "pids.max": "29"} {
		if b, err := os.ReadFile(filepath.Join(g.dirs[0], file)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", file, b, err)
		}
	}
	for text, want := range map[string]bool{"low 0\noom 3\noom_kill 0\n": false, "oom 3\noom_kill 2\noom_group_kill 0\n": true, "": false} {
		if err := os.WriteFile(g.oom, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := g.outOfMemory(); got != want {
			t.Errorf("outOfMemory with %q: %v", text, got)
		}
	}
	control := filepath.Join(dir, "cgroup.subtree_control")
	for text, want := range map[string]string{"cpu memory pids\n": "cpu memory pids\n", "cpu\n": "+memory +pids"} {
		if err := os.WriteFile(control, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := enable(dir); err != nil {
			t.Error(err)
		}
		if b, err := os.ReadFile(control); err != nil || !strings.HasPrefix(string(b), want) {
			t.Errorf("subtree_control: %q, %v", b, err)
		}
	}
}

func TestOutermost(t *testing.T) {
	got := outermost([]string{"/usr/lib", "/opt/py", "/usr", "/opt/python", "/opt/py/lib", "/usr"})
	if d := cmp.Diff([]string{"/opt/py", "/opt/python", "/usr"}, got); d != "" {
		t.Error(d)
	}
	if got := throughLinks("/lib/x", map[string]string{"lib": "/usr/lib"}); got != "/usr/lib/x" {
		t.Error(got)
	}
}

func TestCopyTree(t *testing.T) {
	from, to := writeTree(t), t.TempDir()
	if err := copyTree(from, to, os.Getuid()); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(to, "sub/data")); err != nil || string(b) != "data" {
		t.Errorf("%q, %v", b, err)
	}
	if n, err := treeSize(from); err != nil || n < 4*4096 {
		t.Errorf("size %d, %v", n, err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(from, "link")); err != nil {
		t.Fatal(err)
	}
	if err := copyTree(from, t.TempDir(), os.Getuid()); err == nil {
		t.Error("a link was copied")
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02{}"))
	f.Add([]byte("\xff\xff\xff\xff"))
	f.Add([]byte("\x00\x00\x00\x10{\"Ready\":true}  "))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r report
		if readMessage(bytes.NewReader(data), &r) == nil && len(data) < 4 {
			t.Error("a message without a length")
		}
	})
}
