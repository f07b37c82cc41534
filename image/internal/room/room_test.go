package room

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestMain: this test's binary is also the program that runs in the rooms.
func TestMain(m *testing.M) {
	MaybeInside()
	switch os.Getenv("PROBE") {
	case "facts":
		facts()
	case "wait":
		time.Sleep(time.Hour)
	case "fail":
		os.Exit(3)
	default:
		os.Exit(m.Run())
	}
}

func facts() {
	host, _ := os.Hostname()
	dir, _ := os.Getwd()
	devices, _ := os.ReadFile("/proc/net/dev")
	networks := bytes.Count(devices, []byte(":")) - bytes.Count(devices, []byte("lo:"))
	_, outside := os.Stat("/etc/passwd")
	null := os.WriteFile("/dev/null", []byte("x"), 0)
	fmt.Printf("%s %s pid %d, %d networks, %d variables, outside %v, null %v", host, dir, os.Getpid(), networks, len(os.Environ()), outside == nil, null == nil)
}

func probe(ctx context.Context, t *testing.T, what string) (string, error) {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"dev", "proc"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(filepath.Join(root, "probe"), self, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = Run(ctx, Command{Root: root, Args: []string{"/probe", "now"}, Env: []string{"PROBE=" + what}, Output: &out})
	return out.String(), err
}

// TestRoom: the same surroundings everywhere, no network, nothing of the machine's. Where namespaces are refused, that is
// what the error says.
func TestRoom(t *testing.T) {
	got, err := probe(t.Context(), t, "facts")
	if errors.Is(err, ErrNamespaces) {
		return
	}
	if err != nil {
		t.Fatal(err, got)
	}
	if want := "cape / pid 1, 0 networks, 1 variables, outside false, null true"; got != want {
		t.Errorf("%s\nnot\n%s", got, want)
	}
	var exit *exec.ExitError
	if _, err := probe(t.Context(), t, "fail"); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("a failing program: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := probe(ctx, t, "wait"); err == nil {
		t.Error("a program outlived its context")
	}
}
