package sandbox

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cape-functions/cape/enclave/internal/sandbox/testkit"
	"github.com/cape-functions/cape/enclave/python"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == hostArg {
		host(os.Args[2])
		return
	}
	testkit.Enter()
	os.Exit(m.Run())
}

// TestOtherWorlds runs the rest as other users and in other namespaces.
func TestOtherWorlds(t *testing.T) {
	for _, w := range []testkit.World{testkit.Ordinary, testkit.Nested, testkit.Bare} {
		t.Run(string(w), func(t *testing.T) { testkit.Again(t, w, "^Test(Jail|Sandbox)") })
	}
	if os.Getuid() == 0 {
		t.Run(string(testkit.Legacy), func(t *testing.T) { testkit.Again(t, testkit.Legacy, "^Test(SandboxLayers|SandboxClose|JailFreezes)$") })
	}
}

// change replaces text in one of our Python files.
type change struct{ file, old, new string }

// config is a sandbox's, with our files as they are but for changes.
func config(t testing.TB, dir string, changes ...change) Config {
	t.Helper()
	code := filepath.Join(dir, "code")
	if err := errors.Join(os.Mkdir(code, 0o755), os.Mkdir(filepath.Join(dir, "jails"), 0o711), python.Write(code)); err != nil {
		t.Fatal(err)
	}
	for _, c := range changes {
		path := filepath.Join(code, c.file)
		data, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(data, []byte(c.old)) {
			t.Fatalf("%s has no %q: %v", c.file, c.old, err)
		}
		if err := errors.Join(os.Remove(path), os.WriteFile(path, bytes.Replace(data, []byte(c.old), []byte(c.new), 1), 0o444)); err != nil {
			t.Fatal(err)
		}
	}
	exe, show := interpreter(t)
	return Config{
		Dir: filepath.Join(dir, "jails"), Trees: os.TempDir(), Server: []string{exe, "-I", "-S", "-B", filepath.Join(code, python.Server)},
		ReadOnly: show, Spare: 1, AllowDegraded: true,
	}
}

// interpreter finds this machine's Python, and where it lives.
func interpreter(t testing.TB) (exe string, show []string) {
	t.Helper()
	out, err := exec.Command("python3", "-I", "-S", "-c", "import sys; print(sys._base_executable); print(sys.base_prefix)").Output()
	f := strings.Fields(string(out))
	if err != nil || len(f) != 2 {
		t.Fatal(err, f)
	}
	return f[0], []string{f[1]}
}

// newSandbox is New for whatever layers this world has.
func newSandbox(t testing.TB, changes ...change) *Sandbox {
	t.Helper()
	s, err := New(config(t, t.TempDir(), changes...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, s) })
	return s
}

func closed(t testing.TB, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
}

// function writes a folder as intake leaves it, and a spec for it with small limits.
func function(t testing.TB, app string) Spec {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"app.py": app, "sub/data": "data", "sub/.hidden": ""} {
		path := filepath.Join(dir, name)
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, []byte(text), 0o666),
			os.Chmod(path, 0o666), os.Chmod(filepath.Dir(path), 0o777))
		if err != nil {
			t.Fatal(err)
		}
	}
	return Spec{Tree: dir, Name: "fn", Output: 1 << 20, Limits: Limits{Memory: 256 << 20, Scratch: 8 << 20, Procs: 40, Files: 256, CPU: 2000}}
}

// start starts a jail that is closed with the test.
func start(t testing.TB, s *Sandbox, spec Spec) *Jail {
	t.Helper()
	j, err := s.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		closed(t, j)
		for _, f := range []*os.File{j.In, j.Out, j.Stdout, j.Stderr} {
			if f != nil {
				f.Close()
			}
		}
	})
	return j
}

// errWorker is what a worker reports instead of a result.
var errWorker = errors.New("the worker reports")

// call calls the function once.
func call(t testing.TB, j *Jail, input string) (string, error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	if err := errors.Join(j.In.SetDeadline(deadline), j.Out.SetDeadline(deadline), j.send('i', []byte(input)), j.send('c', nil)); err != nil {
		return "", err
	}
	var out []byte
	for r := bufio.NewReader(j.Out); ; {
		var head [5]byte
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return "", err
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:]))
		if _, err := io.ReadFull(r, body); err != nil {
			return "", err
		}
		switch head[0] {
		case 'l':
		case 'o':
			out = append(out, body...)
		case 'e':
			return string(out), nil
		default:
			return "", fmt.Errorf("%w: %c %q", errWorker, head[0], body)
		}
	}
}

// run runs app once in a jail of its own.
func run(t testing.TB, s *Sandbox, app string) string {
	t.Helper()
	out, err := call(t, start(t, s, function(t, app)), "")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// look runs app, whose result is JSON.
func look(t testing.TB, s *Sandbox, app string, v any) {
	t.Helper()
	if out := run(t, s, app); json.Unmarshal([]byte(out), v) != nil {
		t.Fatalf("%.2000s", out)
	}
}

func wait(t testing.TB, j *Jail) Exit {
	t.Helper()
	select {
	case <-j.Done():
	case <-time.After(30 * time.Second):
		t.Fatal("the jail does not end")
	}
	return j.Exit()
}

// on says whether a layer is in force.
func on(s *Sandbox, name string) bool {
	for _, l := range s.Layers() {
		if l.Name == name {
			return l.On
		}
	}
	return false
}

const hostArg = "cape-test-host"

// host is a runtime that is about to be killed.
func host(dir string) {
	t := &quiet{}
	s, err := New(config(t, dir))
	if err != nil {
		fmt.Println(err)
		return
	}
	spec := Spec{Tree: filepath.Join(dir, "tree"), Name: "fn"}
	j, err := s.Start(t.Context(), spec)
	if err != nil {
		fmt.Println(err)
		return
	}
	if s.Freezes() { // the dead runtime thaws nobody
		if err := j.Freeze(); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println("ready", j.keeper.pid, j.worker.pid, s.current.process.Pid, s.groups.prefix)
	<-j.Done()
}

// quiet lets helpers be used outside of tests.
type quiet struct{ testing.TB }

func (*quiet) Helper()           {}
func (*quiet) Fatal(args ...any) { fmt.Println(args...); os.Exit(1) }
func (*quiet) Context() contextT { return background() }

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil && !gone(pid) }
