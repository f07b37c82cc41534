package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/enclave/internal/sandbox/testkit"
)

type contextT = context.Context

func background() contextT { return context.Background() }

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
	if on(s, "pids cgroup") && !s.Freezes() && !s.plain {
		t.Error("who can make a cgroup can make one that freezes")
	}
	cfg := config(t, t.TempDir())
	cfg.AllowDegraded = false
	strict, err := New(cfg)
	if (err == nil) != (len(off) == 0) || err != nil && !errors.Is(err, ErrLayer) {
		t.Errorf("without AllowDegraded: %v, with %d layers off", err, len(off))
	}
	if err == nil {
		closed(t, strict)
	}
	want := map[testkit.World][]string{
		testkit.Bare: {"cgroup namespace", "cpu cgroup", "freezer cgroup", "ipc namespace", "memory cgroup", "mount namespace", "network namespace", "no further user namespaces",
			"old root detached", "own device nodes", "own locks and watches", "own user for each jail", "pid namespace", "pids cgroup", "read-only root", "user namespace", "uts namespace"},
		testkit.Ordinary: {"cpu cgroup", "freezer cgroup", "memory cgroup", "own device nodes", "own user for each jail", "pids cgroup"},
	}[testkit.Current()]
	slices.Sort(off)
	more := slices.ContainsFunc(off, func(x string) bool { return !slices.Contains(want, x) })
	if testkit.Current() == testkit.Bare && !cmp.Equal(off, want) || testkit.Current() == testkit.Ordinary && more {
		t.Errorf("off: %q, want %q", off, want)
	}
}

// facts are what a program finds out about its jail.
type facts struct {
	UID, GID, PID, PPID int
	Groups, FDs         []int
	Dir, Host           string
	Env                 map[string]string
	Root, Done          []string
	Status              map[string]int
	Limits              map[string]uint64
}

const gather = `
import ctypes, errno, json, os, resource, socket
libc = ctypes.CDLL(None, use_errno=True)
def can(name, f, done):
    try:
        f()
        done.append(name)
    except (OSError, ValueError):
        pass
def cape_handler(x):
    done = []
    for path in ("/proc/self", "/sys/kernel", "/root", "/home", "/dev/nsm", "/dev/vsock", "/dev/mem", "/dev/kvm", "/dev/tty", "/var", "/run", "/boot",
                 "/../var", "/../root", "/.scratch/tmp", "/etc/shadow"):
        can("see " + path, lambda: os.stat(path), done)
    for path in ("/x", "/usr/x", "/etc/passwd", "../x", "/dev/x", "/bin/x"):
        can("write " + path, lambda: open(path, "w"), done)
    can("raise a limit", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (5000, 5000)), done)
    can("setuid", lambda: os.setuid(0), done)
    can("fifo", lambda: os.mkfifo("/tmp/fifo"), [])
    done += [n for n in ("/.trees", "/.scratch") if os.path.exists(n) and os.listdir(n)]
    fds = []
    for fd in range(300):
        try: os.fstat(fd); fds.append(fd)
        except OSError: pass
    try: root = os.listdir("/")
    except OSError: root = []
    limits = {n: resource.getrlimit(getattr(resource, "RLIMIT_" + n))[1] % 2**64 for n in ("CORE", "NOFILE", "DATA", "FSIZE", "NPROC", "MSGQUEUE")}
    bounding = sum(libc.prctl(23, c, 0, 0, 0) > 0 for c in range(64))
    return json.dumps(dict(UID=os.getuid(), GID=os.getgid(), PID=os.getpid(), PPID=os.getppid(), Groups=os.getgroups(), FDs=fds, Dir=os.getcwd(), Host=socket.gethostname(),
        Env=dict(os.environ), Root=root, Done=done, Limits=limits, Status=dict(bounding=bounding, nnp=libc.prctl(39, 0, 0, 0, 0), dumpable=libc.prctl(3, 0, 0, 0, 0))))
`

// TestJailFromInside looks around in a jail: every layer has its line here.
func TestJailFromInside(t *testing.T) {
	s := newSandbox(t)
	var f facts
	look(t, s, gather, &f)
	want := facts{UID: innerID, GID: innerID, PID: 2, PPID: 1, FDs: []int{0, 1, 2, 3, 4}, Dir: "/function/fn", Host: "cape",
		Env:    map[string]string{"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8"},
		Limits: map[string]uint64{"CORE": 0, "NOFILE": 256, "DATA": 256 << 20, "FSIZE": 8 << 20, "NPROC": 40 + ownProcs, "MSGQUEUE": 0},
		Status: map[string]int{"nnp": 1, "bounding": 0, "dumpable": 0}, Done: []string{}}
	if s.plain {
		// What is left without namespaces; the rest is the machine's.
		f.Done = slices.DeleteFunc(f.Done, func(d string) bool { return strings.HasPrefix(d, "see ") })
		want.UID, want.GID, want.PID, want.PPID, want.Dir, want.Host = f.UID, f.GID, f.PID, f.PPID, f.Dir, f.Host
		want.Env["HOME"], want.Env["TMPDIR"], want.Limits["NPROC"], want.Limits["FSIZE"], want.Status["bounding"] = f.Env["HOME"], f.Env["TMPDIR"], f.Limits["NPROC"], f.Limits["FSIZE"], f.Status["bounding"]
		want.Done = []string{"write ../x"}
	}
	f.Done = slices.DeleteFunc(f.Done, func(d string) bool { // an interpreter may live there
		return strings.HasSuffix(d, "/root") && slices.ContainsFunc(s.view.show, func(p string) bool { return strings.HasPrefix(p, "/root/") })
	})
	root := f.Root
	if !s.users.own() {
		f.Groups = nil // an ordinary user cannot leave them
	}
	f.Groups = slices.DeleteFunc(f.Groups, func(g int) bool { return g == innerID })
	if len(f.Groups) == 0 {
		f.Groups = nil
	}
	f.Root = nil
	delete(f.Env, "LC_CTYPE") // of the interpreter itself
	if d := cmp.Diff(want, f); d != "" {
		t.Error(d)
	}
	shown := []string{".scratch", ".trees", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "dev", "tmp", "function"}
	for _, name := range root {
		under := func(p string) bool { return strings.HasPrefix(p, "/"+name+"/") || p == "/"+name }
		if !s.plain && !slices.Contains(shown, name) && !slices.ContainsFunc(s.view.show, under) {
			t.Errorf("the root shows %s", name)
		}
	}
}

const tree = `
import os
def cape_handler(x):
    found, failed = [open("app.py").read()[:9], open("sub/data").read()], []
    for path in ("app.py", "sub/data", "sub/new", "new", os.environ["HOME"] + "/new") + (("/dev/shm/new",) if x == b"" and os.getpid() == 2 else ()):
        try: open(path, "w").write("changed")
        except OSError as e: failed.append(str(e))
    os.remove("sub/.hidden")
    os.rename("new", "sub/renamed")
    return str(found + failed)
`

// TestJailPrivateTree: every change is the jail's own.
func TestJailPrivateTree(t *testing.T) {
	s := newSandbox(t)
	spec := function(t, tree)
	for _, copied := range []bool{false, true, false} {
		s.copy = copied || s.plain
		out, err := call(t, start(t, s, spec), "")
		if want := `['\nimport o', 'data']`; err != nil || out != want {
			t.Errorf("copied %v: %q, %v; want %q", copied, out, err, want)
		}
	}
	for name, want := range map[string]string{"app.py": tree, "sub/data": "data"} {
		if b, err := os.ReadFile(filepath.Join(spec.Tree, name)); err != nil || string(b) != want {
			t.Errorf("%s is now %q, %v", name, b, err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(spec.Tree, "sub", "*")); err != nil || len(left) != 2 {
		t.Errorf("the tree has %q", left)
	}
}

// TestJailCopiesFilesAlone: a tree has nothing but files and folders, or no jail gets it by copy.
func TestJailCopiesFilesAlone(t *testing.T) {
	s := newSandbox(t)
	s.copy = true
	spec := function(t, "")
	if err := os.Symlink("/etc/passwd", filepath.Join(spec.Tree, "link")); err != nil {
		t.Fatal(err)
	}
	if j, err := s.Start(t.Context(), spec); !errors.Is(err, errFurnish) {
		t.Errorf("Start = %v, %v", j, err)
	}
}

func TestJailExit(t *testing.T) {
	s := newSandbox(t)
	for _, c := range []struct {
		app  string
		want Exit
	}{
		{"import os\ndef cape_handler(x): os._exit(42)", Exit{Code: 42}},
		{"import os\nos.abort()", Exit{Signal: syscall.SIGABRT}},
		{"import os\ndef cape_handler(x): os.kill(os.getpid(), 9)", Exit{Signal: syscall.SIGKILL}},
		{"import ctypes\ndef cape_handler(x): ctypes.string_at(0)", Exit{Signal: syscall.SIGSEGV}},
	} {
		j := start(t, s, function(t, c.app))
		if _, err := call(t, j, ""); err == nil {
			t.Errorf("%s: no error", c.app)
		}
		if got := wait(t, j); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.app, got, c.want)
		}
	}
	j := start(t, s, function(t, ""))
	closed(t, j)
	if got := j.Exit(); !got.Killed {
		t.Errorf("closed: %+v", got)
	}
}

func TestJailRefuses(t *testing.T) {
	s := newSandbox(t)
	for _, spec := range []Spec{
		{}, {Name: "../x"}, {Name: ".."}, {Name: "rpc.sock"}, {Name: strings.Repeat("n", maxName+1)}, {Name: "fn", Tree: "relative"}, {Name: "fn", Tree: "/no/such/tree"},
		{Name: "fn", Tree: "/"}, {Name: "fn", Tree: "/usr"}, {Name: "fn", Tree: s.trees},
	} {
		if j, err := s.Start(t.Context(), spec); !errors.Is(err, ErrSetup) {
			t.Errorf("Start(%+v) = %v, %v; want ErrSetup", spec, j, err)
		}
	}
	for _, show := range []string{"/no/such/directory", "/", filepath.Dir(s.dir), "/tmp/..", "/dev"} {
		cfg := config(t, t.TempDir())
		cfg.ReadOnly = append(cfg.ReadOnly, show)
		if got, err := New(cfg); err == nil {
			t.Errorf("a sandbox that shows %s", show)
			closed(t, got)
		}
	}
}

func TestJailLimits(t *testing.T) {
	s := newSandbox(t)
	for _, c := range []struct {
		layer, app, want string
		exit             Exit
	}{
		{"mount namespace", "def cape_handler(x):\n  for i in range(99):\n    try: open(['/tmp/%d', '%d', '/dev/shm/%d'][i % 3] % i, 'wb').write(bytes(1 << 20))\n    except OSError as e: return e.errno", "28", Exit{}},
		{"mount namespace", "import os\ndef cape_handler(x):\n  for i in range(1 << 20):\n    try: os.mkdir('/tmp/%d' % i)\n    except OSError as e: return e.errno", "28", Exit{}},
		{"pid namespace", "import os, time\ndef cape_handler(x):\n  for i in range(200):\n    try:\n      if os.fork() == 0: time.sleep(100)\n    except BlockingIOError: return 30 < i < 60", "True", Exit{}},
		{"rlimits", "def cape_handler(x):\n  try: return len([open('app.py') for _ in range(5000)])\n  except OSError as e: return e.errno", "24", Exit{}},
		{"rlimits", "def cape_handler(x):\n  try: return len(bytes(1 << 30))\n  except MemoryError: return 'no'", "no", Exit{}},
		{"memory cgroup", "import mmap\ndef cape_handler(x):\n  m = mmap.mmap(-1, 1 << 30)\n  for i in range(0, 1 << 30, 4096): m[i] = 1", "", Exit{Signal: syscall.SIGKILL, OutOfMemory: true}},
		{"cpu cgroup", "import os, time\ndef cape_handler(x):\n  for _ in range(3):\n    if os.fork() == 0:\n      while True: pass\n  time.sleep(1.5); return ''", "", Exit{}},
	} {
		if !on(s, c.layer) {
			continue // Layers says so
		}
		spec := function(t, c.app)
		if c.layer == "cpu cgroup" {
			spec.Limits.CPU = 20
		}
		j := start(t, s, spec)
		got, err := call(t, j, "")
		if (err == nil) != (c.exit == Exit{}) || got != c.want {
			t.Errorf("%s: %q, %v", c.app, got, err)
		}
		if err != nil && wait(t, j) != c.exit {
			t.Errorf("%s: %+v", c.app, j.Exit())
		}
		if c.layer == "cpu cgroup" && !throttled(t, j) {
			t.Errorf("its processes were never made to wait")
		}
	}
}

func throttled(t *testing.T, j *Jail) bool {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(j.group.dirs["cpu"], "cpu.stat"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); f[0] == "nr_throttled" {
			return f[1] != "0"
		}
	}
	return false
}
