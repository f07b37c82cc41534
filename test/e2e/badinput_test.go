package e2e

import (
	"archive/zip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func zipFile(t *testing.T, entries map[string]string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "function.zip")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := zip.NewWriter(f)
	for name, text := range entries {
		e, err := w.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestBadInput: each gets exit status 1 and one clear message, prints nothing
// on standard output, and the next request works.
func TestBadInput(t *testing.T) {
	p := start(t, t.TempDir())
	echo := p.Deploy(function(t, "echo", app("def cape_handler(d): return d\n")))
	deployed := func(name, source string) string { return p.Deploy(function(t, name, app(source))) }
	empty := t.TempDir()
	for _, c := range []struct {
		name string
		args []string
		says string
	}{
		{"unknown id", []string{"run", "2222222222222222222222", "x"}, "function"},
		{"unknown name", []string{"run", "dev/nothing", "x"}, "function"},
		{"unknown user", []string{"encrypt", "x", "--username", "nobody"}, ""},
		{"forged token", []string{"run", echo, "x", "--token", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJkZXZ8MSJ9."}, "token"},
		{"no such folder", []string{"deploy", filepath.Join(empty, "none")}, ""},
		{"empty folder", []string{"deploy", empty}, ""},
		{"no app.py", []string{"deploy", function(t, "noapp", map[string]string{"main.py": "x = 1\n"})}, "app.py"},
		{"no handler", []string{"deploy", function(t, "nohandler", app("def other(d): return d\n"))}, "cape_handler"},
		{"syntax error", []string{"deploy", function(t, "syntax", app("def cape_handler(d) return d\n"))}, ""},
		{"parent path", []string{"deploy", zipFile(t, map[string]string{"app.py": "def cape_handler(d): return d\n", "../x": "y"})}, ""},
		{"absolute path", []string{"deploy", zipFile(t, map[string]string{"app.py": "def cape_handler(d): return d\n", "/etc/x": "y"})}, ""},
		{"no zip", []string{"deploy", func() string {
			path := filepath.Join(t.TempDir(), "x.zip")
			if err := os.WriteFile(path, []byte("hello"), 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}()}, ""},
		{"raises", []string{"run", deployed("raises", "def cape_handler(d): raise ValueError('no ' + d.decode())\n"), "x"}, "ValueError"},
		{"exits", []string{"run", deployed("exits", "import sys\ndef cape_handler(d): sys.exit(3)\n"), "x"}, ""},
		{"ends at once", []string{"run", deployed("ends", "import os\ndef cape_handler(d): os._exit(0)\n"), "x"}, ""},
		{"is killed", []string{"run", deployed("killed", "import os, signal\ndef cape_handler(d): os.kill(os.getpid(), signal.SIGKILL)\n"), "x"}, ""},
		{"recurses", []string{"run", deployed("recurses", "def cape_handler(d): return cape_handler(d)\n"), "x"}, "RecursionError"},
		{"takes too much memory", []string{"run", deployed("memory", "def cape_handler(d): return str(len(bytearray(3 << 30)))\n"), "x"}, ""},
		{"fails to import", []string{"run", deployed("imports", "import no_such_module\ndef cape_handler(d): return d\n"), "x"}, "no_such_module"},
		{"--pcr without colon", []string{"run", echo, "x", "--pcr", "abc"}, "pcr"},
		{"no argument", []string{"delete"}, ""},
		{"unknown output", []string{"run", echo, "x", "-o", "yaml"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := p.Cape("", c.args...)
			if r.Code != 1 || r.Out != "" || !strings.Contains(strings.ToLower(r.Err), strings.ToLower(c.says)) || strings.Contains(r.Err, "panic") || len(r.Err) < 10 {
				t.Errorf("exit %d, stdout %q, stderr:\n%s", r.Code, r.Out, r.Err)
			}
			if got := p.Must("run", echo, "next"); got != "next\n" {
				t.Errorf("the next request: %q", got)
			}
		})
	}
	if got := p.Must("run", deployed("none", "def cape_handler(d): pass\n"), "x"); got != "None\n" {
		t.Errorf("a handler that returns None: %q", got)
	}
	noisy := deployed("noisy", "import sys, os\nprint('x' * 100000)\nos.write(1, b'y' * 1000000)\nos.write(2, b'z' * 1000000)\ndef cape_handler(d):\n    print(d)\n    return d\n")
	if got := p.Must("run", noisy, "ok"); got != "ok\n" {
		t.Errorf("a noisy handler: %q", got[:min(len(got), 100)])
	}
	t.Run("no server", func(t *testing.T) {
		env := append(p.Env(), "CAPE_ENCLAVE_HOST=http://127.0.0.1:1")
		if r := p.CapeEnv(env, "", "list"); r.Code != 1 || r.Out != "" || r.Err == "" {
			t.Errorf("%+v", r)
		}
	})
	t.Run("no server known", func(t *testing.T) {
		env := []string{"HOME=" + t.TempDir(), "PATH=/usr/bin:/bin"}
		if r := p.CapeEnv(env, "", "list"); r.Code != 1 || !strings.Contains(r.Err, "caped dev") {
			t.Errorf("%+v", r)
		}
	})
}
