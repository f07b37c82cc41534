package sandbox

import (
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestJailSocket(t *testing.T) {
	s := newSandbox(t)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	socket := os.NewFile(uintptr(fd), "socket")
	defer socket.Close()
	spec := function(t, "import socket\ndef cape_handler(x):\n s = socket.socket(socket.AF_UNIX); s.connect('../rpc.sock'); s.sendall(b'hello'); return s.recv(9)")
	spec.Socket = socket
	spec.Name = strings.Repeat("n", maxName) // longer than the path of a socket may be
	j := start(t, s, spec)
	l, err := net.FileListener(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		b := make([]byte, 5)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
			t.Errorf("%q, %v", b, err)
		}
		c.Write([]byte("HELLO"))
	}()
	if out, err := call(t, j, ""); err != nil || out != "HELLO" {
		t.Errorf("answer: %q, %v", out, err)
	}
}

// TestJailDescriptorsOnTheirWay: a function that puts all that it may into sockets does not keep others from starting, where
// all have one user and may open few files.
func TestJailDescriptorsOnTheirWay(t *testing.T) {
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	const most = 4096
	may := func(now uint64) {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: now, Max: most}); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old) }) // who is not root may not, and goes on with less
	may(1024)                                                            // as programs are started
	s := newSandbox(t)
	may(most) // as Go's programs do by themselves
	spec := function(t, `
import array, os, socket
def flood():
    n = 0
    try:
        while True:
            pair = socket.socketpair()
            kept.append(pair)
            for end in pair:
                end.setblocking(False)
            try:
                while True:
                    pair[0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * 253))])
                    n += 253
            except BlockingIOError:
                pass
    except OSError as error:
        return f"{n} {error.errno}"
kept = []
def cape_handler(x):
    for _ in range(3):
        r, w = os.pipe()
        if os.fork() == 0:
            flood()
            os.write(w, b"x")
            while True: __import__("time").sleep(10)
        os.read(r, 1)
    return flood()
`)
	spec.Limits.Files = 4096
	j := start(t, s, spec)
	out, err := call(t, j, "")
	if err != nil || !strings.HasSuffix(out, " 109") { // ETOOMANYREFS
		t.Fatalf("%q, %v", out, err)
	}
	for range 3 {
		next, err := s.newJail(t.Context())
		if err != nil {
			t.Fatalf("with %s descriptors on their way: %v", out, err)
		}
		closed(t, next)
	}
}

// TestJailPrints: what a program prints is kept only for who asks.
func TestJailPrints(t *testing.T) {
	s := newSandbox(t)
	for _, wanted := range []bool{false, true} {
		spec := function(t, "import os\ndef cape_handler(x):\n  os.write(1, b'o' * 100000); os.write(2, b'e'); return 'x'")
		spec.Print = wanted
		j := start(t, s, spec)
		if (j.Stdout != nil) != wanted || (j.Stderr != nil) != wanted {
			t.Fatalf("wanted %v: %v, %v", wanted, j.Stdout, j.Stderr)
		}
		if wanted {
			go io.Copy(io.Discard, j.Stdout)
		}
		if out, err := call(t, j, ""); err != nil || out != "x" {
			t.Errorf("wanted %v: %q, %v", wanted, out, err)
		}
	}
}

// restless is a function that does what it can to be woken: timers that send signals of their own choice, signals to each other,
// processes and threads that only count, one that is stopped, and one that waits for its child without end.
const restless = `
import ctypes, fcntl, os, signal, threading, time
libc = ctypes.CDLL(None, use_errno=True)
n, kept = 0, []
def wake(*_):
    global n
    n += 1
def make(sig, clock):
    class Event(ctypes.Structure):
        _fields_ = [("value", ctypes.c_void_p), ("signo", ctypes.c_int), ("notify", ctypes.c_int), ("pad", ctypes.c_char * 48)]
    timer = ctypes.c_void_p()
    assert libc.timer_create(clock, ctypes.byref(Event(None, sig, 0)), ctypes.byref(timer)) == 0
    assert libc.timer_settime(timer, 0, (ctypes.c_long * 4)(0, 1000000, 0, 1000000), None) == 0
for sig in (signal.SIGCONT, signal.SIGRTMIN, signal.SIGUSR1, signal.SIGTRAP):
    signal.signal(sig, wake)
    make(sig, 1)
signal.signal(signal.SIGALRM, wake)
signal.setitimer(signal.ITIMER_REAL, .001, .001)
r, w = os.pipe()
fcntl.fcntl(r, fcntl.F_SETOWN, os.getpid())
fcntl.fcntl(r, fcntl.F_SETSIG, signal.SIGCONT)
fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
me = os.getpid()
if os.fork() == 0:
    while True:
        os.kill(me, signal.SIGCONT); os.write(w, b"x"); time.sleep(.001)
if os.fork() == 0:
    while True: pass
def count():
    while True: wake(); time.sleep(.001)
threading.Thread(target=count, daemon=True).start()
threading.Thread(target=os.system, args=("sleep 1000",), daemon=True).start()
if os.fork() == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
vfork = (56, 0x4011) if os.uname().machine == "x86_64" else (220, 0x4011)
threading.Thread(target=libc.syscall, args=(*vfork, 0, 0, 0, 0), daemon=True).start()
time.sleep(.1)
def cape_handler(x): return n
`

// TestJailFreezes: a frozen jail does nothing at all, whatever it prepared, and can be ended.
func TestJailFreezes(t *testing.T) {
	s := newSandbox(t)
	if !s.Freezes() {
		return // Layers says so
	}
	j := start(t, s, function(t, restless))
	count := func() int {
		t.Helper()
		out, err := call(t, j, "")
		n, err2 := strconv.Atoi(out)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		return n
	}
	count()
	for range 3 {
		before := count()
		if err := j.Freeze(); err != nil {
			t.Fatal(err)
		}
		used := j.group.read(freezer, "cpu.stat", "usage_usec ")
		if used == 0 {
			t.Fatal("nothing tells how much processor time it used")
		}
		time.Sleep(700 * time.Millisecond)
		if more := j.group.read(freezer, "cpu.stat", "usage_usec ") - used; more > 2000 {
			t.Errorf("frozen, it used %d microseconds", more)
		}
		if !j.Alive() {
			t.Fatal("it died of the frost")
		}
		if err := j.Thaw(); err != nil {
			t.Fatal(err)
		}
		if after := count(); after == before || after > before+5000 {
			t.Errorf("it counted from %d to %d", before, after)
		}
	}
	if err := j.Freeze(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(j.worker.pid, syscall.SIGKILL); err != nil { // as the kernel does for want of memory
		t.Fatal(err)
	}
	eventually(t, "its death is seen", func() bool { return !j.Alive() })
	begin := time.Now()
	closed(t, j)
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it ended after %s", took)
	}
}

// TestJailMemory: what a jail holds counts, whoever of its processes holds it, and files that are memory as well.
func TestJailMemory(t *testing.T) {
	s := newSandbox(t)
	if !on(s, "memory cgroup") {
		return // Layers says so
	}
	for _, hold := range []string{"kept.append(bytearray(b'x') * (30 << 20))", "open('/tmp/x', 'wb').write(bytes(30 << 20))", "open('x', 'wb').write(bytes(30 << 20))",
		"f = os.memfd_create('x'); os.write(f, bytes(30 << 20)); kept.append(f)",
		"r, w = os.pipe(); p = os.fork()\n  if p == 0: b = bytearray(b'x') * (30 << 20); os.write(w, b'x'); time.sleep(1000)\n  os.read(r, 1)"} {
		spec := function(t, "import os, time\nkept = []\ndef cape_handler(x):\n  "+hold+"\n  return 'held'")
		spec.Limits.Scratch = 64 << 20
		j := start(t, s, spec)
		before := j.Memory()
		if out, err := call(t, j, ""); err != nil || out != "held" {
			t.Fatalf("%s: %q, %v", hold, out, err)
		}
		if after := j.Memory(); before == 0 || after < before+30<<20 || after > before+80<<20 {
			t.Errorf("%s: %d bytes, %d before", hold, after, before)
		}
	}
}

// TestJailNothingCarriesOver: each pair leaves something in one jail and looks for it in another of the same function.
func TestJailNothingCarriesOver(t *testing.T) {
	s := newSandbox(t)
	own, err := unix.Getpriority(unix.PRIO_PROCESS, 0) // 20 less than nothing
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ leave, find, none string }{
		"scratch":          {"open('/tmp/note', 'w').write('x')", "os.path.exists('/tmp/note')", "False"},
		"working folder":   {"open('note', 'w').write('x')", "os.path.exists('note')", "False"},
		"function's files": {"open('app.py', 'a').write('#x')", "open('app.py').read().endswith('#x')", "False"},
		"shared memory":    {"open('/dev/shm/note', 'w').write('x')", "os.path.exists('/dev/shm/note')", "False"},
		"file lock":        {"fcntl.flock(keep(open('app.py')), fcntl.LOCK_EX)", "fcntl.flock(keep(open('app.py')), fcntl.LOCK_EX | fcntl.LOCK_NB)", "None"},
		"record lock":      {"fcntl.lockf(keep(open('app.py', 'r+')), fcntl.LOCK_EX)", "fcntl.lockf(keep(open('app.py', 'r+')), fcntl.LOCK_EX | fcntl.LOCK_NB)", "None"},
		"abstract socket":  {"keep(socket.socket(socket.AF_UNIX)).bind('\\0note')", "keep(socket.socket(socket.AF_UNIX)).connect_ex('\\0note') != 0", "True"},
		"message queue":    {"libc.mq_open(b'/note', os.O_CREAT | os.O_RDWR, 0o666, None)", "libc.mq_open(b'/note', os.O_RDWR)", "-1"},
		"System V memory":  {"libc.shmget(4711, 4096, 0o1666)", "libc.shmget(4711, 4096, 0o666)", "-1"},
		"semaphore":        {"libc.semget(4711, 1, 0o1666)", "libc.semget(4711, 1, 0o666)", "-1"},
		"priority":         {"os.nice(5)", "os.nice(0)", strconv.Itoa(20 - own)},
		"environment":      {"os.environ.update(NOTE='x')", "'NOTE' in os.environ", "False"},
		"modules":          {"sys.modules.update(note=sys)", "'note' in sys.modules", "False"},
		"built-ins":        {"setattr(builtins, 'note', 1)", "hasattr(builtins, 'note')", "False"},
	} {
		if s.plain && (strings.HasPrefix(name, "shared") || strings.HasPrefix(name, "scratch") || strings.HasPrefix(name, "abstract") && !on(s, "landlock for sockets and signals")) {
			continue // these need namespaces, which Layers says
		}
		head := "import builtins, ctypes, fcntl, os, socket, sys\nlibc = ctypes.CDLL(None)\nkept = []\ndef keep(f): kept.append(f); return f\ndef cape_handler(x): return eval(x)"
		spec := function(t, head)
		a, b := start(t, s, spec), start(t, s, spec)
		if _, err := call(t, a, c.leave); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, err := call(t, b, c.find); err != nil || got != c.none {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// TestJailRandomness: processes forked from one another draw different numbers.
func TestJailRandomness(t *testing.T) {
	s := newSandbox(t)
	seen := map[string]bool{}
	const app = "import os, random, secrets, ssl, tempfile, uuid\ndef cape_handler(x):\n  return ' '.join(str(v) for v in (random.random(), secrets.token_hex(), uuid.uuid4(), ssl.RAND_bytes(8).hex(), os.urandom(8).hex(), tempfile.mktemp()))"
	for range 3 {
		for _, v := range strings.Fields(run(t, s, app)) {
			if seen[v] {
				t.Errorf("drawn twice: %s", v)
			}
			seen[v] = true
		}
	}
	if len(seen) != 18 {
		t.Errorf("%d values", len(seen))
	}
}

// TestJailRunsPrograms: what honest functions do works under all layers.
func TestJailRunsPrograms(t *testing.T) {
	s := newSandbox(t)
	for _, app := range []string{
		"import threading\ndef cape_handler(x):\n  n = []\n  ts = [threading.Thread(target=n.append, args=(i,)) for i in range(8)]\n  [t.start() for t in ts]; [t.join() for t in ts]\n  return len(n) == 8",
		"import asyncio\nasync def cape_handler(x):\n  await asyncio.sleep(.01)\n  return await asyncio.to_thread(lambda: True)",
		"import hashlib, ssl, hmac\ndef cape_handler(x): ssl.create_default_context(); return len(hashlib.pbkdf2_hmac('sha256', x, b's', 1000)) == 32",
		"import sqlite3\ndef cape_handler(x):\n  c = sqlite3.connect('db'); c.execute('create table t (a)'); c.execute('insert into t values (1)'); c.commit()\n  return c.execute('select a from t').fetchone() == (1,)",
		"import subprocess\ndef cape_handler(x): return subprocess.run(['/bin/sh', '-c', 'echo $((1+1)) | cat'], capture_output=True).stdout == b'2\\n'",
		"import multiprocessing as m\ndef cape_handler(x):\n  with m.get_context('fork').Pool(2) as p: return p.map(abs, [-1, -2]) == [1, 2]",
		"import concurrent.futures as f\ndef cape_handler(x):\n  with f.ThreadPoolExecutor(4) as p: return sum(p.map(abs, range(9))) == 36",
		"import os, shutil, tempfile\ndef cape_handler(x):\n  d = tempfile.mkdtemp(); shutil.copytree('.', d + '/c'); shutil.rmtree(d); return not os.path.exists(d)",
		"import mmap, ctypes, select, signal, time\ndef cape_handler(x):\n  signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, .01); time.sleep(.05); return True",
		"import pwd, os, getpass\ndef cape_handler(x): return os.getpid() != 2 or pwd.getpwuid(os.getuid()).pw_name == 'cape'",
		"import datetime, zoneinfo, locale, decimal, json, random, statistics, zlib, lzma, bz2, csv\ndef cape_handler(x): return True",
	} {
		if s.plain && strings.Contains(app, "multiprocessing") {
			continue // there is no /dev/shm of its own, and that of all is forbidden
		}
		if got := run(t, s, app); got != "True" {
			t.Errorf("%s: %q", app, got)
		}
	}
}
