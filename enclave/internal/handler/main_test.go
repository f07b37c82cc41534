package handler

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/sandbox/testkit"
)

func TestMain(m *testing.M) {
	testkit.Enter()
	os.Exit(m.Run())
}

// TestOtherWorlds runs the rest as other users and in other namespaces.
func TestOtherWorlds(t *testing.T) {
	for _, w := range []testkit.World{testkit.Ordinary, testkit.Nested, testkit.Bare} {
		t.Run(string(w), func(t *testing.T) { testkit.Again(t, w, "^Test(Invoke|Check|RPC|Printed|Limits|Spares)") })
	}
}

// newHost starts a host on this machine's Python, with whatever layers there are.
func newHost(t testing.TB) *Host {
	t.Helper()
	scratch := t.TempDir()
	h, err := New(Config{Python: "python3", Scratch: scratch, Trees: os.TempDir(), AllowDegraded: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// tree writes a function as intake unpacks it.
func tree(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, "fn", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		for _, p := range []string{path, filepath.Dir(path)} {
			if err := os.Chmod(p, os.FileMode(0o777)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// start runs app.py with small limits.
func start(t *testing.T, h *Host, app string, change ...func(*Options)) *Process {
	t.Helper()
	o := Options{Tree: tree(t, map[string]string{"app.py": app}), Work: "fn",
		Limits: wire.LimitsConfig{Memory: 512 << 20, Scratch: 16 << 20, Procs: 32, CallMS: 20_000, Input: 64 << 20, Output: 64 << 20}}
	for _, c := range change {
		c(&o)
	}
	p, err := h.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// invoke calls p once.
func invoke(t *testing.T, p *Process, input string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := p.Invoke(t.Context(), strings.NewReader(input), &out)
	return out.String(), err
}
