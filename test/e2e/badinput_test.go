package e2e

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cape-functions/cape/test/platform"
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
		header := &zip.FileHeader{Name: name, Method: zip.Deflate}
		if link, ok := strings.CutSuffix(name, "->"); ok {
			header.Name = link
			header.SetMode(0o777 | os.ModeSymlink)
		}
		e, err := w.CreateHeader(header)
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

// bomb is a zip of a few megabytes that would unpack to more than may be unpacked.
func bomb(t *testing.T) string {
	t.Helper()
	entries := map[string]string{"app.py": "def cape_handler(d): return d\n"}
	path := zipFile(t, entries)
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := zip.NewWriter(f)
	app, err := w.Create("app.py")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(app, entries["app.py"]); err != nil {
		t.Fatal(err)
	}
	// One deflated gigabyte, five times over.
	var once bytes.Buffer
	d, err := flate.NewWriter(&once, flate.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	sum, zeros := crc32.NewIEEE(), make([]byte, 1<<20)
	for range 900 {
		if _, err := io.MultiWriter(d, sum).Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		e, err := w.CreateRaw(&zip.FileHeader{Name: fmt.Sprintf("zeros%d", i), Method: zip.Deflate, CRC32: sum.Sum32(),
			CompressedSize64: uint64(once.Len()), UncompressedSize64: 900 << 20})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Write(once.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// sparse is a folder that is large and holds nothing.
func sparse(t *testing.T, size int64) string {
	t.Helper()
	dir := function(t, "sparse", app("def cape_handler(d): return d\n"))
	f, err := os.Create(filepath.Join(dir, "hole"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	return dir
}

// badInput is a command that must fail, and a word that its error must hold.
type badInput struct {
	name string
	args []string
	says string
}

// badInputs deploys what they need; echo is a function that works.
func badInputs(t *testing.T, p *platform.Platform, echo string) []badInput {
	t.Helper()
	stranger := p.Mint(func(c map[string]any) { c["sub"], c[platform.UsernameClaim] = "eve|2", "eve" })
	deployed := func(name, source string) string { return p.Deploy(function(t, name, app(source))) }
	empty := t.TempDir()
	return []badInput{
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
		{"link in a zip", []string{"deploy", zipFile(t, map[string]string{"app.py": "def cape_handler(d): return d\n", "link->": "/etc/passwd"})}, ""},
		{"bomb", []string{"deploy", bomb(t)}, ""},
		{"oversized folder", []string{"deploy", sparse(t, 1_000_000_001)}, "1,000,000,000"},
		{"shared object for another platform", []string{"deploy", function(t, "foreign", map[string]string{
			"app.py": "def cape_handler(d): return d\n", "m.cpython-311-darwin.so": "\xcf\xfa\xed\xfe"})}, "darwin"},
		{"expired token", []string{"run", echo, "x", "--token", p.Mint(func(c map[string]any) { c["exp"] = time.Now().Unix() - 60 })}, "expired"},
		{"somebody else's function", []string{"run", echo, "x", "--token", stranger}, "function"},
		{"deleting somebody else's function", []string{"delete", echo, "--token", stranger}, "function"},
		{"wrong PCR", []string{"run", echo, "x", "--pcr", "8:" + strings.Repeat("0", 96)}, "PCR8"},
		{"wrong checksum", []string{"run", echo, "x", "--function-checksum", strings.Repeat("0", 64)}, "checksum"},
		{"no argument", []string{"delete"}, ""},
		{"unknown output", []string{"run", echo, "x", "-o", "yaml"}, ""},
	}
}

// TestBadInput: each gets exit status 1 and one clear message, prints nothing
// on standard output, and the next request works.
func TestBadInput(t *testing.T) {
	p := start(t, t.TempDir())
	echo := p.Deploy(function(t, "echo", app("def cape_handler(d): return d\n")))
	deployed := func(name, source string) string { return p.Deploy(function(t, name, app(source))) }
	for _, c := range badInputs(t, p, echo) {
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
	t.Run("wrong root", func(t *testing.T) {
		other := start(t, t.TempDir())
		env := append(other.Env(), "CAPE_ENCLAVE_HOST="+p.URL)
		if r := p.CapeEnv(env, "", "run", echo, "x", "--token", p.Token(), "--trust-first-use"); r.Code != 1 || r.Out != "" || !strings.Contains(r.Err, "root") {
			t.Errorf("%+v", r)
		}
	})
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
