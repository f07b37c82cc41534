package sandbox

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cape-functions/cape/enclave/internal/sandbox/testkit"
)

// on says whether a layer is in force.
func on(s *Sandbox, name string) bool {
	return slices.ContainsFunc(s.Layers(), func(l Layer) bool { return l.Name == name && l.On })
}

func TestSandboxLayers(t *testing.T) {
	s := newSandbox(t)
	var off []string
	for _, l := range s.Layers() {
		if l.On != (l.Why == "") {
			t.Errorf("layer %+v", l)
		}
		if !l.On {
			off = append(off, l.Name)
		}
	}
	t.Log(off)
	_, err := New(Config{Dir: t.TempDir()})
	if (err == nil) != (len(off) == 0) || err != nil && !errors.Is(err, ErrLayer) {
		t.Errorf("without AllowDegraded: %v, with %d layers off", err, len(off))
	}
	want := map[testkit.World][]string{
		testkit.Bare: {"cgroup namespace", "ipc namespace", "memory cgroup", "mount namespace", "network namespace", "no further user namespaces",
			"old root detached", "own user for each jail", "pid namespace", "pids cgroup", "read-only root", "user namespace", "uts namespace"},
		testkit.Ordinary: {"memory cgroup", "own user for each jail", "pids cgroup"},
	}[testkit.Current()]
	slices.Sort(off)
	if testkit.Current() == testkit.Bare && !cmp.Equal(off, want) || testkit.Current() == testkit.Ordinary && !subset(off, want) {
		t.Errorf("off: %q, want %q", off, want)
	}
}

func subset(a, b []string) bool {
	return !slices.ContainsFunc(a, func(x string) bool { return !slices.Contains(b, x) })
}

// TestJailFromInside looks around in a jail: every layer has its line here.
func TestJailFromInside(t *testing.T) {
	s := newSandbox(t)
	if !s.ns.all {
		return // TestJailPlain is what holds here
	}
	f := look(t, s, probeSpec(t, "look"))
	if f.UID != innerID || f.GID != innerID || f.PID == 1 || f.PID > 20 {
		t.Errorf("user %d, group %d, process %d", f.UID, f.GID, f.PID)
	}
	if s.users.own() && slices.ContainsFunc(f.Groups, func(g int) bool { return g != innerID }) {
		t.Errorf("groups %v", f.Groups)
	}
	want := []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/tmp", "TMPDIR=/tmp", "LANG=C.UTF-8"}
	if d := cmp.Diff(want, f.Env); d != "" {
		t.Errorf("environment: %s", d)
	}
	if f.Dir != "/function/fn" || f.Hostname != "cape" {
		t.Errorf("directory %q on %q", f.Dir, f.Hostname)
	}
	if d := cmp.Diff([]int{0, 1, 2}, f.FDs); d != "" {
		t.Errorf("descriptors: %s", d)
	}
	if len(f.Interfaces) != 0 || len(f.Done) != 0 {
		t.Errorf("interfaces up: %v; could do: %q", f.Interfaces, f.Done)
	}
	if f.Caps != [4]uint32{} || f.Bounding != 0 || f.NoNewPrivs != 1 {
		t.Errorf("capabilities %x, %d in the bounding set, no_new_privs %d", f.Caps, f.Bounding, f.NoNewPrivs)
	}
	if f.Limits["core"] != 0 || f.Limits["files"] != openFiles || f.Limits["data"] != 256<<20 || f.Limits["size"] != 8<<20 || f.Limits["procs"] > 40+ownThreads {
		t.Errorf("limits %v", f.Limits)
	}
	for _, name := range f.Root {
		if !slices.Contains([]string{"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "dev", "tmp", "function"}, name) && !strings.HasPrefix(os.Args[0], "/"+name+"/") {
			t.Errorf("the root shows %s", name)
		}
	}
}

// TestJailPlain is what holds where there are no namespaces.
func TestJailPlain(t *testing.T) {
	s := newSandbox(t)
	if s.ns.all {
		return // TestJailFromInside holds, which is more
	}
	f := look(t, s, probeSpec(t, "look"))
	if f.NoNewPrivs != 1 || len(f.Env) != 4 || len(f.FDs) != 3 || f.Limits["core"] != 0 || f.Limits["data"] != 256<<20 {
		t.Errorf("%+v", f)
	}
	for _, done := range f.Done {
		if !strings.HasPrefix(done, "see ") && done != "network" && done != "write beside" {
			t.Errorf("could do: %s", done)
		}
	}
}

// TestJailPrivateTree: every change is the jail's own.
func TestJailPrivateTree(t *testing.T) {
	s := newSandbox(t)
	tree := writeTree(t)
	for _, copied := range []bool{false, true, false} {
		s.copy = copied
		spec := probeSpec(t, "change")
		spec.Tree = tree
		f := look(t, s, spec)
		if f.Content != "app data <nil> <nil>" {
			t.Errorf("copied %v: found %q", copied, f.Content)
		}
		if len(f.Done) != 0 && s.ns.all {
			t.Errorf("copied %v: could not write: %q", copied, f.Done)
		}
	}
	os.Remove("/tmp/new") // left by the plain jail, which has no /tmp of its own
	os.Remove("/dev/shm/new")
	for name, want := range map[string]string{"app.py": "app", "sub/data": "data"} {
		if b, err := os.ReadFile(filepath.Join(tree, name)); err != nil || string(b) != want {
			t.Errorf("%s is now %q, %v", name, b, err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(tree, "sub", "*")); err != nil || len(left) != 2 {
		t.Errorf("the tree has %q", left)
	}
}

func TestJailExit(t *testing.T) {
	s := newSandbox(t)
	for _, c := range []struct {
		probe string
		want  Exit
	}{{"nothing", Exit{}}, {"exit", Exit{Code: 42}}, {"abort", Exit{Code: -1, Signal: syscall.SIGKILL}}} {
		if _, got := output(t, s, probeSpec(t, c.probe)); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.probe, got, c.want)
		}
	}
	j := start(t, s, probeSpec(t, "sleep"))
	closed(t, j)
	if got := j.Exit(); !got.Killed {
		t.Errorf("closed: %+v", got)
	}
}

func TestJailNoSuchProgram(t *testing.T) {
	s := newSandbox(t)
	for _, spec := range []Spec{
		{Args: []string{"/no/such/program"}, Name: "fn"}, {Args: []string{"relative"}, Name: "fn"}, {Name: "fn"},
		{Args: []string{"/bin/true"}}, {Args: []string{"/bin/true"}, Name: "../x"}, {Args: []string{"/bin/true"}, Name: "rpc.sock"},
		{Args: []string{"/bin/true"}, Name: "fn", Tree: "relative"}, {Args: []string{"/bin/true"}, Name: "fn", Tree: "/no/such/tree"},
		{Args: []string{"/bin/true"}, Name: "fn", ReadOnly: []string{"/no/such/directory"}},
		{Args: []string{"/bin/true"}, Name: "fn", ReadOnly: []string{filepath.Dir(s.dir)}}, {Args: []string{"/bin/true"}, Name: "fn", ReadOnly: []string{"/"}},
	} {
		if j, err := s.Start(t.Context(), spec); !errors.Is(err, ErrSetup) {
			t.Errorf("Start(%+v) = %v, %v; want ErrSetup", spec, j, err)
		}
	}
	left(t, s)
}

func TestJailLimits(t *testing.T) {
	s := newSandbox(t)
	for _, c := range []struct {
		probe, layer string
		holds        func(out string, exit Exit) bool
	}{
		{"fill", "mount namespace", func(out string, _ Exit) bool { return strings.Contains(out, "no space left") }},
		{"processes", "pid namespace", func(out string, _ Exit) bool { return strings.Contains(out, "temporarily unavailable") }},
		{"memory", "memory cgroup", func(_ string, exit Exit) bool { return exit.OutOfMemory && exit.Signal == syscall.SIGKILL }},
	} {
		if !on(s, c.layer) {
			continue // Layers says so
		}
		if out, exit := output(t, s, probeSpec(t, c.probe)); !c.holds(out, exit) {
			t.Errorf("%s: %q, %+v", c.probe, out, exit)
		}
	}
	left(t, s)
}

func TestJailSocket(t *testing.T) {
	s := newSandbox(t)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	socket := os.NewFile(uintptr(fd), "socket")
	defer socket.Close()
	spec := probeSpec(t, "connect")
	spec.Socket = socket
	spec.Name = strings.Repeat("n", maxName) // longer than the path of a socket may be
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	spec.Stdout = w
	j := start(t, s, spec)
	w.Close()
	l, err := net.FileListener(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Errorf("%q, %v", b, err)
	}
	c.Write([]byte("HELLO"))
	c.Close()
	wait(t, j)
	if out, err := io.ReadAll(r); err != nil || string(out) != "HELLO" {
		t.Errorf("answer: %q, %v", out, err)
	}
}

// TestJailFromOutside reads what the kernel says of a jail.
func TestJailFromOutside(t *testing.T) {
	s := newSandbox(t)
	a, b := start(t, s, probeSpec(t, "sleep")), start(t, s, probeSpec(t, "sleep"))
	seen := map[string]bool{}
	for _, j := range []*Jail{a, b} {
		first := strconv.Itoa(j.process.Pid)
		if s.ns.all {
			for _, ns := range []string{"user", "pid_for_children", "mnt", "net", "ipc", "uts"} {
				mine, err := os.Readlink("/proc/self/ns/" + ns)
				if err != nil {
					t.Fatal(err)
				}
				its, err := os.Readlink("/proc/" + first + "/ns/" + ns)
				if errors.Is(err, os.ErrPermission) {
					continue // an ordinary user may not look; root does
				}
				if err != nil || its == mine || seen[its] {
					t.Errorf("namespace %s is %s, the runtime's %s, %v", ns, its, mine, err)
				}
				seen[its] = true
			}
		}
		if b, err := os.ReadFile("/proc/" + strconv.Itoa(program(t, j)) + "/oom_score_adj"); err != nil || string(b) != "1000\n" {
			t.Errorf("oom_score_adj: %q, %v", b, err)
		}
		uid := status(t, program(t, j), "Uid:")
		if s.users.own() && (uid == "0" || seen["uid "+uid]) {
			t.Errorf("the program's user is %s", uid)
		}
		seen["uid "+uid] = true
		if caps := status(t, j.process.Pid, "CapEff:"); s.ns.all && strings.Trim(caps, "0") != "" {
			t.Errorf("the first process has capabilities %s", caps)
		}
	}
}

// program is the process id, seen from outside, of a jail's program.
func program(t *testing.T, j *Jail) int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && parentOf(pid) == j.process.Pid {
			return pid
		}
	}
	t.Fatal("the program does not run")
	return 0
}

func status(t *testing.T, pid int, field string) string {
	t.Helper()
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == field {
			return f[1]
		}
	}
	t.Fatalf("no %s", field)
	return ""
}
