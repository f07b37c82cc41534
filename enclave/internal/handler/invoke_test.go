package handler

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestInvoke(t *testing.T) {
	h := newHost(t)
	long := strings.Repeat("0123456789abcdef", 3<<16) // 3 MiB: many frames
	for _, c := range []struct{ name, app, input, want string }{
		{"bytes pass through", "def cape_handler(x): return x", "a\x00\xff", "a\x00\xff"},
		{"empty input", "def cape_handler(x): return b'<' + x + b'>'", "", "<>"},
		{"nothing", "def cape_handler(x): return b''", "a", ""},
		{"text", "def cape_handler(x): return x.decode() + 'é'", "a", "aé"},
		{"none", "def cape_handler(x): pass", "a", "None"},
		{"tuple", "def cape_handler(x): return ('a', 72.27)", "", "('a', 72.27)"},
		{"dict", "def cape_handler(x): return {'a': 1}", "", "{'a': 1}"},
		{"bytearray", "def cape_handler(x): return bytearray(x)", "ab", "ab"},
		{"memoryview", "def cape_handler(x): return memoryview(x)[::2]", "abcd", "ac"},
		{"large", "def cape_handler(x): return x", long, long},
		{"assigned", "cape_handler = lambda x: x * 2", "ab", "abab"},
		{"coroutine", "async def cape_handler(x): return x", "ab", "ab"},
		{"input is bytes", "def cape_handler(x): return type(x)", "", "<class 'bytes'>"},
		{"working directory is first on the path", "import os, sys\ndef cape_handler(x): return sys.path[0] == os.getcwd() and os.path.exists('app.py')", "", "True"},
		{"working directory is writable", "def cape_handler(x):\n open('a', 'wb').write(x); open('app.py', 'wb').write(x)\n return open('a', 'rb').read() + open('app.py', 'rb').read()", "ab", "abab"},
		{"prints do not disturb", "import os\ndef cape_handler(x):\n print('x' * 100000); os.write(2, b'garbage'); os.write(0 + 1, b'more')\n return x", "a", "a"},
		{"threads and subprocesses", "import subprocess, threading\ndef cape_handler(x):\n t = threading.Thread(target=print); t.start(); t.join()\n return subprocess.run(['/bin/cat'], input=x, stdout=subprocess.PIPE).stdout", "hi", "hi"},
		{"environment is cleared", "import os\ndef cape_handler(x): return sorted(os.environ)", "", "['HOME', 'LANG', 'PATH', 'TMPDIR']"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := invoke(t, start(t, h, c.app), c.input)
			if err != nil || got != c.want {
				t.Errorf("Invoke = %.200q, %v; want %.200q", got, err, c.want)
			}
		})
	}
}

func TestInvokeKeepsGlobals(t *testing.T) {
	p := start(t, newHost(t), "n = 0\ndef cape_handler(x):\n global n\n n += 1\n return str(n)")
	for _, want := range []string{"1", "2", "3"} {
		if got, err := invoke(t, p, ""); err != nil || got != want {
			t.Fatalf("Invoke = %q, %v; want %q", got, err, want)
		}
	}
}

func TestInvokeExceptions(t *testing.T) {
	h := newHost(t)
	for _, c := range []struct{ name, app, kind, message, trace string }{
		{"value error", "def cape_handler(x):\n  raise ValueError('bad')", "ValueError", "bad", `app.py", line 2, in cape_handler`},
		{"own type", "class E(Exception): pass\ndef cape_handler(x): raise E('bad')", "app.E", "bad", "app.E: bad"},
		{"exit", "import sys\ndef cape_handler(x): sys.exit(3)", "SystemExit", "3", "SystemExit"},
		{"exit by builtin", "def cape_handler(x): exit(4)", "SystemExit", "4", "SystemExit"},
		{"recursion", "def cape_handler(x): return cape_handler(x)", "RecursionError", "maximum recursion depth exceeded", "Previous line repeated"},
		{"interrupt", "import signal\ndef cape_handler(x):\n signal.raise_signal(signal.SIGINT)", "KeyboardInterrupt", "", "KeyboardInterrupt"},
		{"bad text", "class E(Exception):\n  def __str__(self): raise SystemExit(1)\ndef cape_handler(x): raise E()", "app.E", "<the exception's text could not be made>", "E"},
		{"bad result", "class R:\n  def __str__(self): raise OSError('no text')\ndef cape_handler(x): return R()", "OSError", "no text", "__str__"},
		{"no such encoding", "def cape_handler(x): return '\\ud800'", "UnicodeEncodeError", "'utf-8' codec can't encode character '\\ud800' in position 0: surrogates not allowed", "UnicodeEncodeError"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := start(t, h, c.app)
			for range 2 { // the process lives on
				_, err := invoke(t, p, "")
				var e *FunctionError
				if !errors.As(err, &e) {
					t.Fatalf("Invoke = %v, want a FunctionError", err)
				}
				if e.Type != c.kind || !strings.HasPrefix(e.Message, c.message) || !strings.Contains(e.Traceback, c.trace) {
					t.Errorf("got %q %q\n%s", e.Type, e.Message, e.Traceback)
				}
				if strings.Contains(e.Traceback, "worker.py") {
					t.Errorf("traceback shows the worker:\n%s", e.Traceback)
				}
			}
		})
	}
}

func TestInvokeImportFails(t *testing.T) {
	h := newHost(t)
	for _, c := range []struct{ name, app, kind string }{
		{"raises", "1 / 0", "ZeroDivisionError"},
		{"no handler", "x = 1", "AttributeError"},
		{"not callable", "cape_handler = 1", "TypeError"},
		{"missing module", "import nosuchmodule", "ModuleNotFoundError"},
		{"exits", "import sys; sys.exit()", "SystemExit"},
		{"syntax", "def", "SyntaxError"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := start(t, h, c.app)
			for range 2 {
				_, err := invoke(t, p, "")
				var e *FunctionError
				if !errors.As(err, &e) || e.Type != c.kind {
					t.Errorf("Invoke = %v, want %s", err, c.kind)
				}
			}
		})
	}
}

// TestInvokeHostile has one function a case; each must end in its own error,
// and soon.
func TestInvokeHostile(t *testing.T) {
	h := newHost(t)
	for _, c := range []struct {
		name, app string
		want      error
	}{
		{"exits at once", "import os\ndef cape_handler(x): os._exit(0)", ErrEnded},
		{"exits in import", "import os\nos._exit(7)", ErrEnded},
		{"kills itself", "import os\ndef cape_handler(x): os.kill(os.getpid(), 9)", ErrEnded},
		{"kills all", "import os\ndef cape_handler(x):\n try: os.kill(-1, 9)\n finally: os._exit(1)", ErrEnded},
		{"crashes", "import ctypes\ndef cape_handler(x): ctypes.string_at(0)", ErrEnded},
		{"hangs", "import time\ndef cape_handler(x): time.sleep(1000)", ErrTimeout},
		{"spins", "def cape_handler(x):\n  while True: pass", ErrTimeout},
		{"hangs with signals off", "import signal, time\ndef cape_handler(x):\n for s in set(signal.Signals) - {9, 19}: signal.signal(s, signal.SIG_IGN)\n while True: time.sleep(1)", ErrTimeout},
		{"runs out of memory", "def cape_handler(x): return bytes(3 << 30)", ErrOutOfMemory},
		{"closes everything", "import os\ndef cape_handler(x): os.closerange(0, 1000); os._exit(0)", ErrEnded},
		{"closes and stays", "import os, time\ndef cape_handler(x):\n os.closerange(0, 1000); time.sleep(1000)", ErrEnded},
		{"writes garbage", "import os, time\ndef cape_handler(x):\n os.write(4, b'z' * 64); time.sleep(1000)", ErrEnded},
		{"promises a huge frame", "import os, time\ndef cape_handler(x):\n os.write(4, b'o\\xff\\xff\\xff\\xff'); time.sleep(1000)", ErrEnded},
		{"stops half way", "import os, time\ndef cape_handler(x):\n os.write(4, b'o\\0\\0\\1\\0abc'); time.sleep(1000)", ErrTimeout},
		{"garbled exception", "import os, time\ndef cape_handler(x):\n os.write(4, b'x\\0\\0\\0\\4\\0\\0\\1\\0'); time.sleep(1000)", ErrEnded},
		{"endless result", "import os\ndef cape_handler(x):\n while True: os.write(4, b'o\\0\\0\\x10\\0' + b'a' * 4096)", ErrEnded},
		{"two short pieces", "import os, time\ndef cape_handler(x):\n os.write(4, b'o\\0\\0\\0\\1a' * 2 + b'e\\0\\0\\0\\0'); time.sleep(1000)", ErrEnded},
		{"an empty piece", "import os, time\ndef cape_handler(x):\n os.write(4, b'o\\0\\0\\0\\0e\\0\\0\\0\\0'); time.sleep(1000)", ErrEnded},
		{"too large a result", "def cape_handler(x): return b'a' * 3_000_000", ErrResultTooLarge},
	} {
		if c.name == "kills all" && plain(h) {
			continue // without a pid namespace it would end the tests themselves
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := start(t, h, c.app, func(o *Options) { o.Limits.CallMS, o.Limits.Output = 1500, 2<<20 })
			begin := time.Now()
			_, err := invoke(t, p, "x")
			if !errors.Is(err, c.want) {
				t.Errorf("Invoke = %v, want %v", err, c.want)
			}
			if d := time.Since(begin); d > 15*time.Second {
				t.Errorf("took %s", d)
			}
		})
	}
}

func TestInvokeSurvivesErrors(t *testing.T) {
	p := start(t, newHost(t), "def cape_handler(x):\n if x == b'large': return b'a' * 3_000_000\n if x == b'memory': return bytes(3 << 30)\n return x",
		func(o *Options) { o.Limits.Input, o.Limits.Output = 1<<20, 2<<20 })
	for _, c := range []struct {
		input string
		want  error
	}{{"a", nil}, {"large", ErrTooLarge}, {"b", nil}, {"memory", ErrOutOfMemory}, {"c", nil}, {strings.Repeat("x", 1<<20+1), ErrTooLarge}, {"d", nil}} {
		got, err := invoke(t, p, c.input)
		if !errors.Is(err, c.want) || c.want == nil && got != c.input {
			t.Errorf("Invoke(%.10q) = %.10q, %v; want %v", c.input, got, err, c.want)
		}
	}
}

func TestInvokeReadError(t *testing.T) {
	p := start(t, newHost(t), "calls = []\ndef cape_handler(x):\n calls.append(x)\n return calls")
	broken := errors.New("cut short")
	input := io.MultiReader(strings.NewReader(strings.Repeat("x", 200_000)), iotest.ErrReader(broken))
	if err := p.Invoke(t.Context(), input, io.Discard); !errors.Is(err, broken) {
		t.Errorf("Invoke = %v, want the reader's error", err)
	}
	if got, err := invoke(t, p, "a"); err != nil || got != "[b'a']" {
		t.Errorf("after a broken input: %.100q, %v; want only the second call", got, err)
	}
}

func TestInvokeWriteError(t *testing.T) {
	p := start(t, newHost(t), "def cape_handler(x): return x")
	full := errors.New("full")
	err := p.Invoke(t.Context(), strings.NewReader("a"), writerFunc(func([]byte) (int, error) { return 0, full }))
	if !errors.Is(err, full) {
		t.Errorf("Invoke = %v, want the writer's error", err)
	}
	if _, err := invoke(t, p, "a"); !errors.Is(err, ErrEnded) {
		t.Errorf("after it: %v, want ErrEnded", err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestInvokeCancelled(t *testing.T) {
	p := start(t, newHost(t), "import time\ndef cape_handler(x): time.sleep(1000)")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := p.Invoke(ctx, strings.NewReader(""), io.Discard); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Invoke = %v, want the context's error", err)
	}
	select {
	case <-p.Done():
	case <-time.After(10 * time.Second):
		t.Error("the process lives on")
	}
}

func TestInvokeAfterClose(t *testing.T) {
	h := newHost(t)
	p := start(t, h, "def cape_handler(x): return x")
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := invoke(t, p, ""); !errors.Is(err, ErrEnded) {
		t.Errorf("Invoke = %v, want ErrEnded", err)
	}
}

// TestInvokeSlowReader: the time a caller takes is not the function's.
func TestInvokeSlowReader(t *testing.T) {
	p := start(t, newHost(t), "def cape_handler(x): return bytes(1_000_000)", func(o *Options) { o.Limits.CallMS = 1500 })
	var out bytes.Buffer
	slow := writerFunc(func(b []byte) (int, error) { time.Sleep(600 * time.Millisecond); return out.Write(b) })
	if err := p.Invoke(t.Context(), strings.NewReader(""), slow); err != nil || out.Len() != 1_000_000 {
		t.Errorf("Invoke = %v with %d bytes", err, out.Len())
	}
}

func TestInvokePrivateTree(t *testing.T) {
	h := newHost(t)
	dir := tree(t, map[string]string{"app.py": "import os\ndef cape_handler(x):\n r = open('note').read() if os.path.exists('note') else 'none'\n open('note', 'w').write(x.decode())\n return r"})
	for range 2 { // the second connection must not see the first one's file
		p, err := h.Start(t.Context(), Options{Tree: dir, Work: "fn"})
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"none", "mine"} {
			if got, err := invoke(t, p, "mine"); err != nil || got != want {
				t.Errorf("Invoke = %q, %v; want %q", got, err, want)
			}
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
}
