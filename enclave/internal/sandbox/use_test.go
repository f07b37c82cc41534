package sandbox

import (
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

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

// TestJailFreezes: a frozen jail does nothing at all, also what it started.
func TestJailFreezes(t *testing.T) {
	s := newSandbox(t)
	if s.plain {
		return // Freeze does nothing there, and says so
	}
	j := start(t, s, function(t, "import os, time, threading\nn = 0\ndef count():\n  global n\n  while True: n += 1; time.sleep(.01)\nthreading.Thread(target=count, daemon=True).start()\n"+
		"if os.fork() == 0:\n  while True: time.sleep(.01)\ndef cape_handler(x): return n"))
	if _, err := call(t, j, ""); err != nil {
		t.Fatal(err)
	}
	if err := j.Freeze(); err != nil {
		t.Fatal(err)
	}
	state := func() string {
		data, err := os.ReadFile(j.worker.path("stat"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))[0]
	}
	eventually(t, "the worker stops", func() bool { return state() == "T" })
	if err := j.Thaw(); err != nil {
		t.Fatal(err)
	}
	if _, err := call(t, j, ""); err != nil || state() == "T" {
		t.Errorf("after Thaw: %v, %s", err, state())
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
