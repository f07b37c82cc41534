package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	own := &users{base: 5000, size: 3}
	for _, c := range []struct {
		name string
		s    *Sandbox
		maps int
		text string
	}{
		{"own users", &Sandbox{users: own}, 2, "0 0 1\n1000 5001 1\n"},
		{"no own users", &Sandbox{users: &users{}}, 1, "1000 1000 1\n"},
		{"no namespaces", &Sandbox{users: own, plain: true}, 0, "0 0 1\n1000 5001 1\n"},
	} {
		a := c.s.attributes()
		if len(a.UidMappings) != c.maps || len(a.GidMappings) != c.maps || (a.Cloneflags&syscall.CLONE_NEWUSER != 0) != (c.maps > 0) {
			t.Errorf("%s: %+v", c.name, a)
		}
		if got := c.s.idMap(5001); got != c.text {
			t.Errorf("%s: %q", c.name, got)
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
		{"version 1", v1, "8:pids:/docker/ab/c\n4:memory:/user\n0::/\n", cgroups{dirs: map[string]string{"memory": "/sys/fs/cgroup/memory/user", "pids": "/sys/fs/cgroup/pids/c", "freezer": "/sys/fs/cgroup/unified"}}},
		{"version 1, mount of another cgroup", v1, "8:pids:/other\n4:memory:/\n", cgroups{dirs: map[string]string{"memory": "/sys/fs/cgroup/memory", "pids": "/sys/fs/cgroup/pids", "freezer": "/sys/fs/cgroup/unified"}}},
		{"version 2", v2, "0::/user.slice/x\n", cgroups{v2: true, dirs: map[string]string{"memory": "/sys/fs/cgroup/user.slice/x", "pids": "/sys/fs/cgroup/user.slice/x", "cpu": "/sys/fs/cgroup/user.slice/x", "freezer": "/sys/fs/cgroup/user.slice/x"}}},
		{"none", "22 27 0:21 / /proc rw - proc proc rw\n", "", cgroups{dirs: map[string]string{}}},
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
	c := &cgroups{v2: true, dirs: map[string]string{"memory": dir, "pids": dir, "cpu": dir}}
	g, err := c.create()
	if err != nil || len(g.folders()) != 1 {
		t.Fatalf("%+v, %v", g, err)
	}
	files, err := g.open()
	if err != nil || len(files) != 1 || files[0].Name() != g.dirs["pids"] {
		t.Errorf("%v, %v", files, err)
	}
	if err := g.limit(Limits{Memory: 1 << 20, Procs: 5, CPU: 1500}); err != nil {
		t.Error(err)
	}
	for file, want := range map[string]string{"memory.max": "1048576", "pids.max": "6", "cpu.max": "150000 100000"} {
		if b, err := os.ReadFile(filepath.Join(g.dirs["cpu"], file)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", file, b, err)
		}
	}
	if err := g.limit(Limits{Memory: 1 << 60}); err != nil {
		t.Error(err)
	}
	if n := g.read("memory", "memory.max", ""); n == 0 || n >= memTotal(t) {
		t.Errorf("a jail may have %d bytes of the machine's %d", n, memTotal(t))
	}
	for text, want := range map[string]bool{"low 0\noom 3\noom_kill 0\n": false, "oom 3\noom_kill 2\noom_group_kill 0\n": true, "": false} {
		if err := os.WriteFile(filepath.Join(g.dirs["memory"], "memory.events"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := g.outOfMemory(); got != want {
			t.Errorf("outOfMemory with %q: %v", text, got)
		}
	}
	for file, text := range map[string]string{"memory.current": "5000\n", "memory.stat": "anon 7\nfile 3\ninactive_file 1000\nactive_file 500\nworkingset_activate_file 9\n"} {
		if err := os.WriteFile(filepath.Join(g.dirs["memory"], file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n := g.memory(); n != 3500 {
		t.Errorf("%d bytes in use", n)
	}
	control := filepath.Join(dir, "cgroup.subtree_control")
	for text, want := range map[string]string{"cpu memory pids\n": "cpu memory pids\n", "cpu\n": "+pids"} {
		if err := os.WriteFile(control, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := c.enable("pids"); err != nil {
			t.Error(err)
		}
		if b, err := os.ReadFile(control); err != nil || string(b) != want {
			t.Errorf("subtree_control: %q, %v", b, err)
		}
	}
}

func TestOutermost(t *testing.T) {
	got := outermost([]string{"/usr/lib", "/opt/py", "/usr", "/opt/python", "/opt/py/lib", "/usr"})
	if d := cmp.Diff([]string{"/opt/py", "/opt/python", "/usr"}, got); d != "" {
		t.Error(d)
	}
	if got := (&view{links: map[string]string{"lib": "usr/lib"}}).through("/lib/x"); got != "/usr/lib/x" {
		t.Error(got)
	}
}

func TestTreeSize(t *testing.T) {
	if n, err := treeSize(function(t, "app").Tree); err != nil || n < 4*4096 || n > 10*4096 {
		t.Errorf("size %d, %v", n, err)
	}
}

func TestUnescape(t *testing.T) {
	if got := unescape(`/a\040b\134040`); got != `/a b\040` {
		t.Errorf("%q", got)
	}
}

// FuzzMessage: whatever a keeper says is an answer or an error.
func FuzzMessage(f *testing.F) {
	f.Add([]byte("{}"))
	f.Add([]byte(`{"error":"x"}`))
	f.Add([]byte(`{"ended":true,"code":3,"missing":{"pivot":"x"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		ours, theirs, err := newPeer()
		if err != nil {
			t.Fatal(err)
		}
		defer ours.conn.Close()
		if len(data) == 0 || len(data) > 16<<10 {
			theirs.Close()
			return
		}
		_, err = theirs.Write(data)
		if a, fd, got := ours.receive(); fd != -1 || err == nil && got == nil && a.Error != "" {
			t.Errorf("%q: %+v, %d, %v", data, a, fd, got)
		}
		theirs.Close()
	})
}

func TestMountsBelow(t *testing.T) {
	info := "1 0 8:1 / / rw - ext4 x rw\n2 1 8:2 / /usr rw - ext4 x rw\n3 2 8:3 / /usr/local\\040x rw - ext4 x rw\n4 3 8:4 / /usr/local\\040x rw - ext4 x rw\n" +
		"5 1 8:5 / /usrx/y rw - ext4 x rw\n6 2 8:6 / /usr/a rw - ext4 x rw\nrubbish\n"
	if got, want := mountsBelow(info, []string{"/usr"}), []string{"/usr/a", "/usr/local x"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// memTotal is how much memory the machine has, in bytes.
func memTotal(t *testing.T) (kib uint64) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "MemTotal:")
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}
