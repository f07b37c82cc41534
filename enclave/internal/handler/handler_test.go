package handler

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/intake"
	"github.com/cape-functions/cape/enclave/internal/sandbox"
	"github.com/cape-functions/cape/enclave/python"
)

func TestCheck(t *testing.T) {
	h := newHost(t)
	for _, c := range []struct {
		name, source string
		ok           bool
	}{
		{"def", "def cape_handler(x): return x\n", true},
		{"async def", "async def cape_handler(x): return x\n", true},
		{"assignment", "cape_handler = print\n", true},
		{"tuple assignment", "a, (cape_handler, b) = f()\n", true},
		{"annotated assignment", "cape_handler: object = print\n", true},
		{"import", "from impl import cape_handler\n", true},
		{"import as", "from impl import f as cape_handler\n", true},
		{"star import", "from impl import *\n", true},
		{"within try", "try:\n  from a import cape_handler\nexcept ImportError:\n  pass\n", true},
		{"within except", "try:\n  import a\nexcept ImportError:\n  def cape_handler(x): pass\n", true},
		{"within if", "if a:\n  pass\nelse:\n  cape_handler = 1\n", true},
		{"declared encoding", "# coding: latin-1\nx = '\xe9'\ndef cape_handler(x): return x\n", true},
		{"would raise when run", "1 / 0\ndef cape_handler(x): return x\n", true},
		{"empty", "", false},
		{"nothing bound", "def handler(x): return x\n", false},
		{"annotation alone", "cape_handler: object\n", false},
		{"within a function", "def f():\n  def cape_handler(x): return x\n", false},
		{"within a class", "class A:\n  def cape_handler(x): return x\n", false},
		{"attribute", "a.cape_handler = 1\n", false},
		{"used, not bound", "print(cape_handler)\n", false},
		{"imported under another name", "from impl import cape_handler as f\n", false},
		{"syntax error", "def cape_handler(x) return x\n", false},
		{"return outside", "def cape_handler(x): return x\nreturn 1\n", false},
		{"zero bytes", "def cape_handler(x): return x\n\x00", false},
		{"not UTF-8", "def cape_handler(x): return '\xff'\n", false},
		{"unknown encoding", "# coding: nosuch\ndef cape_handler(x): return x\n", false},
		{"deeply nested", "cape_handler = " + strings.Repeat("(", 100_000) + strings.Repeat(")", 100_000), false},
		{"deep unary", "cape_handler = " + strings.Repeat("-", 1_000_000) + "1", false},
		{"too large", strings.Repeat("#", wire.MaxHandlerSource+1), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := h.Check(t.Context(), []byte(c.source))
			if c.ok && err != nil || !c.ok && !errors.Is(err, intake.ErrInvalid) {
				t.Errorf("Check = %v, want ok: %v", err, c.ok)
			}
		})
	}
}

func TestCheckRunsNothing(t *testing.T) {
	h := newHost(t)
	begin := time.Now()
	if err := h.Check(t.Context(), []byte("while True: pass\ndef cape_handler(x): pass\n")); err != nil {
		t.Error(err)
	}
	if d := time.Since(begin); d > checkTime/2 {
		t.Errorf("took %s", d)
	}
}

func TestCheckCancelled(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Check(ctx, []byte("def cape_handler(x): pass\n")); err == nil || errors.Is(err, intake.ErrInvalid) {
		t.Errorf("Check = %v, want the context's error", err)
	}
}

// client is what cape_encrypt does inside a function.
const client = `
import base64, json, socket
def call(method, *params):
    with socket.socket(socket.AF_UNIX) as s:
        s.connect("../rpc.sock")
        s.sendall(json.dumps({"id": 1, "method": method, "params": params}).encode())
        data = b""
        while piece := s.recv(65536):
            data += piece
    return json.loads(data)
`

func TestRPC(t *testing.T) {
	h := newHost(t)
	rpc := func(_ context.Context, method string, arg []byte) ([]byte, error) {
		switch {
		case bytes.HasPrefix(arg, []byte("bad")):
			return nil, errors.New("not a Cape envelope")
		case method == MethodEncrypt:
			return []byte("cape:" + base64.StdEncoding.EncodeToString(arg)), nil
		}
		return base64.StdEncoding.DecodeString(strings.TrimPrefix(string(arg), "cape:"))
	}
	for _, c := range []struct{ name, app, input, want string }{
		{"encrypt", "def cape_handler(x): return call('CapeEncryptRPC.Encrypt', base64.b64encode(x).decode())['result']", "hi", "cape:aGk="},
		{"decrypt", "def cape_handler(x): return base64.b64decode(call('CapeEncryptRPC.Decrypt', x.decode())['result'])", "cape:aGk=", "hi"},
		{"many", "def cape_handler(x): return [call('CapeEncryptRPC.Decrypt', x.decode())['error'] for _ in range(20)].count(None)", "cape:aGk=", "20"},
		{"large", "def cape_handler(x):\n  big = base64.b64encode(bytes(12 << 20)).decode()\n  return len(call('CapeEncryptRPC.Encrypt', big)['result'])", "", "16777221"},
		{"refused", "def cape_handler(x): r = call('CapeEncryptRPC.Decrypt', 'bad'); return (r['result'], r['error'], r['id'])", "", "(None, 'not a Cape envelope', 1)"},
		{"unknown method", "def cape_handler(x): r = call('Other.Method', 'a'); return (r['result'], type(r['error']))", "", "(None, <class 'str'>)"},
		{"no parameter", "def cape_handler(x): r = call('CapeEncryptRPC.Decrypt'); return (r['result'], type(r['error']))", "", "(None, <class 'str'>)"},
		{"not base64", "def cape_handler(x): r = call('CapeEncryptRPC.Encrypt', '***'); return (r['result'], type(r['error']))", "", "(None, <class 'str'>)"},
		{"garbage", "def cape_handler(x):\n  s = socket.socket(socket.AF_UNIX); s.connect('../rpc.sock'); s.sendall(b'}' * 100)\n  return type(json.loads(s.recv(65536))['error'])", "", "<class 'str'>"},
		{"silent one does not block later ones for long", "def cape_handler(x):\n  s = socket.socket(socket.AF_UNIX); s.connect('../rpc.sock'); s.close()\n  return call('CapeEncryptRPC.Decrypt', 'cape:aGk=')['error']", "", "None"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := start(t, h, client+c.app, func(o *Options) { o.RPC = rpc })
			if got, err := invoke(t, p, c.input); err != nil || got != c.want {
				t.Errorf("Invoke = %.200q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestRPCWithout(t *testing.T) {
	p := start(t, newHost(t), "import os\ndef cape_handler(x): return os.path.exists('../rpc.sock')")
	if got, err := invoke(t, p, ""); err != nil || got != "False" {
		t.Errorf("Invoke = %q, %v", got, err)
	}
}

// buffer is a writer for one stream.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func TestPrinted(t *testing.T) {
	var out, err buffer
	p := start(t, newHost(t), "import sys\nprint('loaded')\ndef cape_handler(x):\n print('called', x); print('oops', file=sys.stderr)\n return x",
		func(o *Options) { o.Stdout, o.Stderr = &out, &err })
	if _, e := invoke(t, p, "a"); e != nil {
		t.Fatal(e)
	}
	if got, want := out.String()+"|"+err.String(), "loaded\ncalled b'a'\n|oops\n"; got != want {
		t.Errorf("printed %q, want %q, when the result is there", got, want)
	}
}

func TestPrintedFlood(t *testing.T) {
	var out buffer
	stuck := make(chan struct{})
	defer close(stuck)
	p := start(t, newHost(t), "import os\ndef cape_handler(x):\n for _ in range(200): os.write(1, b'a' * 65536); os.write(2, b'b' * 65536)\n return x",
		func(o *Options) {
			o.Stdout = &out
			o.Stderr = writerFunc(func(p []byte) (int, error) { <-stuck; return len(p), nil })
		})
	if got, err := invoke(t, p, "a"); err != nil || got != "a" {
		t.Errorf("Invoke = %q, %v", got, err)
	}
	if n := len(out.String()); n > maxPrinted+1<<10 {
		t.Errorf("kept %d bytes", n)
	}
}

// TestPrintersRest: whoever prints without end, much at once or byte by byte, is read slowly.
func TestPrintersRest(t *testing.T) {
	const long = 500 * time.Millisecond
	reads := 2*freeReads + 4*int(long/pause)*breath // on a slow machine, too
	for name, size := range map[string]int{"much": 64 << 10, "byte by byte": 1} {
		t.Run(name, func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			var pieces atomic.Int64
			p := newPrinter(r, writerFunc(func(b []byte) (int, error) { pieces.Add(1); return len(b), nil }))
			if err := p.start(); err != nil {
				t.Fatal(err)
			}
			if err := w.SetWriteDeadline(time.Now().Add(long)); err != nil {
				t.Fatal(err)
			}
			written, piece := 0, make([]byte, size)
			for err == nil {
				var n int
				n, err = w.Write(piece)
				written += n
			}
			w.Close()
			<-p.done
			if written < reads || written > reads*printPiece || int(pieces.Load()) > reads {
				t.Errorf("%d bytes were read in %s, %d pieces passed on; want at most %d", written, long, pieces.Load(), reads)
			}
		})
	}
}

// TestPrintedLive: lines arrive while the handler runs, and those before its end are not lost with it.
func TestPrintedLive(t *testing.T) {
	h := newHost(t)
	lines := make(chan string, 8)
	p := start(t, h, "import time\ndef cape_handler(x):\n print('first')\n time.sleep(60)",
		func(o *Options) {
			o.Stdout = writerFunc(func(p []byte) (int, error) { lines <- string(p); return len(p), nil })
		})
	go invoke(t, p, "a")
	select {
	case got := <-lines:
		if got != "first\n" {
			t.Errorf("printed %q", got)
		}
	case <-time.After(20 * time.Second):
		t.Error("nothing arrived while the handler ran")
	}
	p.Close()
	var out buffer
	p = start(t, h, "import os\ndef cape_handler(x):\n print('last'); os._exit(1)", func(o *Options) { o.Stdout = &out })
	if _, err := invoke(t, p, "a"); !errors.Is(err, ErrEnded) || out.String() != "last\n" {
		t.Errorf("printed %q, %v", out.String(), err)
	}
}

// TestPrinterMarks: what a slow onlooker or the bound costs is said in its place, to the byte.
func TestPrinterMarks(t *testing.T) {
	var out buffer
	begun, on := make(chan struct{}), make(chan struct{})
	var once sync.Once
	p := newPrinter(nil, writerFunc(func(b []byte) (int, error) {
		once.Do(func() { close(begun); <-on })
		return out.Write(b)
	}))
	go p.write()
	print := func(n int, b string) {
		p.mu.Lock()
		p.keep([]byte(strings.Repeat(b, n)))
		p.mu.Unlock()
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	print(10, "a")
	<-begun
	print(maxWaiting, "b")
	print(7, "c")
	print(5, "c")
	close(on)
	want := strings.Repeat("a", 10) + strings.Repeat("b", maxWaiting) + fmt.Sprintf(omitted, 12)
	await := func() {
		t.Helper()
		for end := time.Now().Add(5 * time.Second); out.String() != want; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%d bytes, ending in %.80q; want %d", len(out.String()), out.String()[max(0, len(out.String())-80):], len(want))
			}
		}
	}
	await()
	p.mu.Lock()
	p.kept = maxPrinted - 3
	p.mu.Unlock()
	print(5, "d")
	print(5, "e")
	want += "ddd" + fmt.Sprintf(tooMuch, maxPrinted)
	await()
	close(p.wake)
	<-p.done
}

func TestLimits(t *testing.T) {
	h := newHost(t)
	for _, c := range []struct{ name, app, want string }{
		{"scratch space", "def cape_handler(x):\n  try:\n    for i in range(64):\n      with open('/tmp/%d' % i if x else '%d' % i, 'wb') as f: f.write(bytes(1 << 20))\n  except OSError as e: return type(e)", "<class 'OSError'>"},
		{"processes", "import os\ndef cape_handler(x):\n  try:\n    for i in range(200):\n      if os.fork() == 0:\n        import time; time.sleep(1000)\n  except BlockingIOError: return 'refused'\n  return 'all'", "refused"},
		{"descriptors", "def cape_handler(x):\n  try: fs = [open('app.py') for _ in range(5000)]\n  except OSError: return 'refused'", "refused"},
		{"no core dumps", "import resource\ndef cape_handler(x): return resource.getrlimit(resource.RLIMIT_CORE)", "(0, 0)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if plain(h) && (c.name == "processes" || c.name == "scratch space") {
				return // these two need namespaces, which Layers says
			}
			p := start(t, h, c.app)
			if got, err := invoke(t, p, ""); err != nil || got != c.want {
				t.Errorf("Invoke = %q, %v; want %q", got, err, c.want)
			}
			if _, err := invoke(t, start(t, h, "def cape_handler(x): return x"), ""); err != nil {
				t.Errorf("the next run: %v", err)
			}
		})
	}
}

// plain says whether there are no namespaces here.
func plain(h *Host) bool {
	for _, l := range h.sandbox.Layers() {
		if l.Name == "pid namespace" {
			return !l.On
		}
	}
	return true
}

func TestLimitsDefault(t *testing.T) {
	if got, want := withDefaults(wire.LimitsConfig{Memory: 5}).Memory, uint64(5); got != want {
		t.Errorf("memory %d, want %d", got, want)
	}
	d := wire.DefaultLimits()
	got := withDefaults(wire.LimitsConfig{})
	if got.Memory != d.Memory || got.CallMS != d.CallMS || got.Output != d.Output || got.Procs != d.Procs {
		t.Errorf("defaults are %+v", got)
	}
}

func TestStartRefuses(t *testing.T) {
	h := newHost(t)
	for _, o := range []Options{{Tree: "relative", Work: "fn"}, {Tree: t.TempDir(), Work: "../fn"}, {Tree: t.TempDir(), Work: "/fn"},
		{Tree: t.TempDir(), Work: "missing"}} {
		if p, err := h.Start(t.Context(), o); !errors.Is(err, sandbox.ErrSetup) {
			t.Errorf("Start(%+v) = %v, %v; want ErrSetup", o, p, err)
		}
	}
}

func TestRootLayout(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "app.py"), []byte("import os\ndef cape_handler(x): return os.getcwd()"), 0o666); err != nil {
		t.Fatal(err)
	}
	p, err := h.Start(t.Context(), Options{Tree: dir, Work: "."})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := invoke(t, p, ""); err != nil || got != "/function/app" {
		t.Errorf("Invoke = %q, %v", got, err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

func TestInterpreter(t *testing.T) {
	for _, name := range []string{"no-such-python", "/bin/false", "/bin/echo"} {
		if _, err := ask(name, ""); !errors.Is(err, ErrPython) {
			t.Errorf("ask(%q) = %v, want ErrPython", name, err)
		}
	}
	image := t.TempDir()
	for text, ok := range map[string]bool{"/usr/bin/python3\x003.11\x00linux-x86_64\x00/usr": true, "/usr/bin/python3\x003.11": false, "python3\x003.11\x00x\x00/usr": false} {
		if err := os.WriteFile(filepath.Join(image, python.Answer), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := ask("/usr/bin/python3", image); (err == nil) != ok || ok && (got.Version != "3.11" || len(got.Folders) != 1) {
			t.Errorf("the image's %q: %+v, %v", text, got, err)
		}
	}
	private := t.TempDir()
	for _, dir := range []string{"/", "/root", private, filepath.Dir(private)} {
		i := &interpreter{Folders: []string{dir}}
		if got, err := i.directories(private); !errors.Is(err, ErrPython) {
			t.Errorf("directories with %s = %v, %v; want ErrPython", dir, got, err)
		}
	}
	for _, v := range []string{"2.7", "3.8", "4.0", "3", "3.x", ""} {
		if err := (&interpreter{Version: v, Executable: "/usr/bin/python"}).validate(); !errors.Is(err, ErrPython) {
			t.Errorf("version %q: %v", v, err)
		}
	}
}

func TestHostNames(t *testing.T) {
	h := newHost(t)
	var major, minor int
	if _, err := fmt.Sscanf(h.Python(), "%d.%d", &major, &minor); err != nil || major != 3 || minor < 9 {
		t.Errorf("Python() = %q", h.Python())
	}
	if !strings.HasPrefix(h.Platform(), "linux-") {
		t.Errorf("Platform() = %q", h.Platform())
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte("l\x00\x00\x00\x00"), []byte(""))
	f.Add([]byte("x\x00\x00\x00\x0d"), []byte("\x00\x00\x00\x01E\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("o\xff\xff\xff\xff"), []byte("\x00\x00\x00\xffE"))
	f.Add([]byte("z"), []byte("\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, head, body []byte) {
		_, n, err := readHead(bufio.NewReader(bytes.NewReader(head)), ofCall)
		if err == nil && n > maxFrame {
			t.Errorf("a frame of %d bytes was taken", n)
		}
		e, err := parseException(body)
		if err == nil && (e.Type == "" || len(e.Type)+len(e.Message)+len(e.Traceback) > 3*len(body)) {
			t.Errorf("exception %+v from %d bytes", e, len(body))
		}
	})
}

// TestLimitsOfItsOwn: a function gets what its cape.toml asks for.
func TestLimitsOfItsOwn(t *testing.T) {
	h := newHost(t)
	app := "import resource, time\ndef cape_handler(x):\n  if x: time.sleep(5)\n  return [resource.getrlimit(r)[1] for r in (resource.RLIMIT_DATA, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE)]"
	config := "[limits]\nmemory = \"300MiB\"\nfiles = 77\ndisk = \"3MiB\"\ntime = \"500ms\"\n"
	p, err := h.Start(t.Context(), Options{Tree: tree(t, map[string]string{"app.py": app, "cape.toml": config}), Work: "fn"})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if got, err := invoke(t, p, ""); err != nil || !plain(h) && got != fmt.Sprint("[", 300<<20, ", 77, ", 3<<20, "]") {
		t.Errorf("limits %s, %v", got, err)
	}
	if _, err := invoke(t, p, "slow"); !errors.Is(err, ErrTimeout) {
		t.Errorf("a long call: %v", err)
	}
	bad := tree(t, map[string]string{"app.py": app, "cape.toml": "[limits]\nmemory = 0\n"})
	if p, err := h.Start(t.Context(), Options{Tree: bad, Work: "fn"}); !errors.Is(err, intake.ErrInvalid) {
		t.Errorf("Start = %v, %v", p, err)
	}
}
