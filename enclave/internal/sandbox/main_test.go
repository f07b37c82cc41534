package sandbox

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cape-functions/cape/enclave/internal/sandbox/testkit"
)

func TestMain(m *testing.M) {
	MaybeInit()
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], probePrefix) {
		probe(strings.TrimPrefix(os.Args[1], probePrefix), os.Args[2:])
		os.Exit(0)
	}
	testkit.Enter()
	os.Exit(m.Run())
}

// TestOtherWorlds runs the rest as other users and in other namespaces.
func TestOtherWorlds(t *testing.T) {
	for _, w := range []testkit.World{testkit.Ordinary, testkit.Nested, testkit.Bare} {
		t.Run(string(w), func(t *testing.T) { testkit.Again(t, w, "^Test(Jail|Sandbox|Copy)") })
	}
}

// open is New for whatever layers this world has.
func newSandbox(t *testing.T) *Sandbox {
	t.Helper()
	s, err := New(Config{Dir: t.TempDir(), AllowDegraded: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, s) })
	return s
}

func closed(t *testing.T, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
}

// probeSpec runs this test binary, as a probe, in a jail.
func probeSpec(t *testing.T, name string, args ...string) Spec {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Spec{
		Args: append([]string{exe, probePrefix + name}, args...), ReadOnly: []string{filepath.Dir(exe)}, Name: "fn",
		Limits: Limits{Memory: 256 << 20, Scratch: 8 << 20, Procs: 40},
	}
}

// output runs a spec to its end and returns what it printed.
func output(t *testing.T, s *Sandbox, spec Spec) (string, Exit) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	spec.Stdout, spec.Stderr = w, w
	j, err := s.Start(t.Context(), spec)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err != nil {
		t.Error(err)
	}
	wait(t, j)
	return string(out), j.Exit()
}

func wait(t *testing.T, j *Jail) {
	t.Helper()
	select {
	case <-j.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the jail does not end")
	}
}

// look runs a probe that answers in JSON.
func look(t *testing.T, s *Sandbox, spec Spec) facts {
	t.Helper()
	out, exit := output(t, s, spec)
	var f facts
	if err := json.Unmarshal([]byte(out), &f); err != nil || exit != (Exit{}) {
		t.Fatalf("probe: %v, %+v: %.2000s", err, exit, out)
	}
	return f
}

// start starts a probe that runs until it is ended.
func start(t *testing.T, s *Sandbox, spec Spec) *Jail {
	t.Helper()
	j, err := s.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, j) })
	return j
}

// writeTree makes a function's folder as intake leaves it.
func writeTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"app.py": "app", "sub/data": "data", "sub/.hidden": ""} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Dir(path), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
