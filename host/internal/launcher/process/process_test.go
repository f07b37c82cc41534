package process

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/devnsm"
	"github.com/cape-functions/cape/host/internal/launcher"
	"github.com/cape-functions/cape/vsock"
)

// TestMain lets the test binary play the runtime: it says what it sees of the
// network and of its environment to whoever dials its session port.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "--links" {
		playRuntime(os.Args[2])
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func playRuntime(links string) {
	network := vsock.Unix(links, true)
	l, err := network.Listen(wire.PortSession)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(`{"level":"INFO","msg":"hello","port":5000}`)
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		interfaces, err := net.Interfaces()
		up := 0
		for _, i := range interfaces {
			if i.Flags&net.FlagUp != 0 {
				up++
			}
		}
		boot, bootErr := network.Dial(context.Background(), wire.PortBoot)
		said := ""
		if bootErr == nil {
			b, _ := io.ReadAll(boot)
			said = string(b)
		}
		fmt.Fprintf(conn, "pid=%d up=%d env=%d boot=%s %v", os.Getpid(), up, len(os.Environ()), said, err)
		conn.Close()
	}
}

func newLauncher(t *testing.T, out io.Writer) *Launcher {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal(err)
	}
	authority, err := devnsm.OpenAuthority(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "cape")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := New(Config{Runtime: self, Python: python, Dir: dir, Authority: authority, Revision: "test", Log: slog.New(slog.NewTextHandler(out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLaunch(t *testing.T) {
	var logged strings.Builder
	l := newLauncher(t, &logged)
	t.Setenv("SECRET_OF_THE_HOST", "x")
	e, err := l.Launch(t.Context(), launcher.Spec{Services: map[uint32]func(net.Conn){
		wire.PortBoot: func(c net.Conn) { fmt.Fprint(c, "booted") },
	}})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := e.Dial(t.Context(), wire.PortSession)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(answer); got != "pid=1 up=0 env=0 boot=booted <nil>" {
		t.Errorf("the enclave sees %q", got)
	}
	measured, err := l.Measure(t.Context())
	if err != nil || measured["PCR0"] == "" || measured["PCR0"] != e.Release().Measurements["PCR0"] || measured["PCR8"] == "" {
		t.Errorf("measured %v, runs %v: %v", measured, e.Release().Measurements, err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-e.Done():
	default:
		t.Error("Close returned before the enclave ended")
	}
	if left, err := filepath.Glob(filepath.Join(l.cfg.Dir, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
	if !strings.Contains(logged.String(), "enclave: hello") || !strings.Contains(logged.String(), "port=5000") {
		t.Errorf("log: %s", logged.String())
	}
}

func TestMeasureFollowsContent(t *testing.T) {
	l := newLauncher(t, io.Discard)
	before, err := l.Measure(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "runtime")
	content, err := os.ReadFile(l.cfg.Runtime)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, append(content, 0), 0o755); err != nil {
		t.Fatal(err)
	}
	l.cfg.Runtime = copied
	after, err := l.Measure(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if before["PCR0"] == after["PCR0"] || before["PCR2"] == after["PCR2"] {
		t.Error("another runtime has the same PCR0 or PCR2")
	}
	if before["PCR1"] != after["PCR1"] || before["PCR8"] != after["PCR8"] {
		t.Error("another runtime has another interpreter or signer")
	}
}

func TestLaunchFailure(t *testing.T) {
	l := newLauncher(t, io.Discard)
	l.cfg.Runtime = "/bin/false"
	if _, err := l.Launch(t.Context(), launcher.Spec{}); err == nil {
		t.Error("a runtime that ends at once was launched")
	}
	l.cfg.Runtime = filepath.Join(t.TempDir(), "runtime")
	if err := os.WriteFile(l.cfg.Runtime, []byte("#!/bin/sh\necho hello\necho for want of a nail\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Launch(t.Context(), launcher.Spec{}); err == nil || !strings.Contains(err.Error(), "for want of a nail") {
		t.Errorf("what the runtime said last is not told: %v", err)
	}
	l.cfg.Python = "/nonexistent/python"
	if _, err := l.Launch(t.Context(), launcher.Spec{}); err == nil {
		t.Error("launched without an interpreter")
	}
}
