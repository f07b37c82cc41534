package handler

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestInterpreterPlaces: functions run by the interpreter of the system, of a version manager, and of a virtual environment, which
// stands for the one that it was made from.
func TestInterpreterPlaces(t *testing.T) {
	dir := t.TempDir()
	if out, err := exec.Command("python3", "-m", "venv", "--without-pip", dir+"/venv").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	places := []string{dir + "/venv/bin/python", "/usr/bin/python3"}
	managed, err := filepath.Glob(os.Getenv("HOME") + "/.pyenv/versions/3.1[0-9]*/bin/python3")
	if err != nil {
		t.Fatal(err)
	}
	for _, python := range append(places, managed...) {
		if _, err := os.Stat(python); err != nil {
			continue
		}
		t.Run(strings.ReplaceAll(python, "/", "_"), func(t *testing.T) {
			h, err := New(Config{Python: python, Scratch: t.TempDir(), Trees: os.TempDir(), AllowDegraded: true})
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			const app = "import os, ssl, sys, zlib\ndef cape_handler(x):\n  try: open(os.__file__, 'a')\n  except OSError: return '%d.%d' % sys.version_info[:2]"
			out, _, err := once(t, h, Options{Work: "fn", Tree: tree(t, map[string]string{"app.py": app})})
			if err != nil || out != h.Python() {
				t.Errorf("%q, %v; want %s", out, err, h.Python())
			}
		})
	}
}

// TestCompiledPackages: packages with C extensions, vendored in the function's folder, work under all layers, and
// two connections draw different random numbers.
func TestCompiledPackages(t *testing.T) {
	if os.Getenv("CAPE_TEST_FULL") == "" {
		t.Skip("installs numpy and msgpack: CAPE_TEST_FULL=1 runs it")
	}
	h, dir := newHost(t), t.TempDir()
	o := Options{Work: "fn", Tree: tree(t, map[string]string{"app.py": `
import msgpack, numpy, numpy.random
def cape_handler(x):
    a = numpy.arange(250_000.0).reshape(500, 500)
    assert abs((a @ numpy.linalg.pinv(a) @ a - a)).max() < 1e-3
    assert msgpack._cmsgpack and msgpack.unpackb(msgpack.packb({"x": [1, 2]})) == {"x": [1, 2]}
    return f"{numpy.random.random()} {numpy.random.default_rng().random()}"
`})}
	for _, command := range [][]string{
		{"python3", "-m", "venv", filepath.Join(dir, "venv")},
		{filepath.Join(dir, "venv/bin/pip"), "install", "-q", "--only-binary", ":all:", "--target", filepath.Join(o.Tree, "fn"), "numpy", "msgpack"},
		{"chmod", "-R", "a+rwX", filepath.Join(o.Tree, "fn")},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", command, err, out)
		}
	}
	seen := map[string]bool{}
	for range 2 {
		out, _, err := once(t, h, o)
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range strings.Fields(out) {
			if seen[v] {
				t.Errorf("drawn twice: %s", v)
			}
			seen[v] = true
		}
	}
	if len(seen) != 4 {
		t.Errorf("%d numbers", len(seen))
	}
}
