// Package platform gives tests a `caped dev` of their own and the commands of
// the real binaries against it, as a user would type them.
package platform

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// bin holds the binaries under test, built once for each test binary.
var bin string

// Main builds the binaries and runs the tests of a package: its TestMain calls
// it and nothing else. root is the way from the package to the module's root.
func Main(m *testing.M, root string) {
	os.Exit(run(m, root))
}

func run(m *testing.M, root string) int {
	dir, err := os.MkdirTemp("", "cape-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // other users run them, too
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	bin = dir
	cmd := exec.Command("go", "build", "-o", dir, "./client/cmd/cape", "./host/cmd/caped", "./enclave/cmd/cape-runtime-dev")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// startWait is for a platform whose enclave is a virtual machine without KVM, on a crowded host.
const startWait = 5 * time.Minute

// Binary is the path of one of the binaries that Main built.
func Binary(name string) string { return filepath.Join(bin, name) }

// Platform is a running `caped dev`.
type Platform struct {
	t    *testing.T
	done chan struct{}

	// Dir is the data directory, URL what the platform said it is ready at.
	Dir, URL string
	// Log is what it writes to stderr.
	Log *Buffer
	Cmd *exec.Cmd
}

// Buffer is a bytes.Buffer for several goroutines.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *Buffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *Buffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Start brings a platform up in dir and stops it at the end of the test.
func Start(t *testing.T, dir string, flags ...string) *Platform {
	t.Helper()
	p := &Platform{t: t, Dir: dir, Log: &Buffer{}, done: make(chan struct{})}
	args := append([]string{"dev", "--data-dir", dir, "--listen", "127.0.0.1:0", "--verbose"}, flags...)
	p.Cmd = exec.Command(Binary("caped"), args...)
	p.Cmd.Stderr = p.Log
	// A test binary that is killed, or runs out of time, leaves nothing behind.
	p.Cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.Cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan string, 1)
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if url, ok := strings.CutPrefix(lines.Text(), "cape is ready at "); ok {
				ready <- url
			}
		}
		p.Cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(p.Stop)
	select {
	case p.URL = <-ready:
	case <-p.done:
		t.Fatalf("caped dev ended:\n%s", p.Log)
	case <-time.After(startWait):
		t.Fatalf("caped dev was not ready in %s:\n%s", startWait, p.Log)
	}
	return p
}

// Stop ends the platform as an operator would.
func (p *Platform) Stop() {
	p.Cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(6 * time.Second):
		p.t.Error("caped did not end within 6 s of SIGTERM")
		p.Cmd.Process.Kill()
		<-p.done
	}
}

// Kill ends it as a power cut would.
func (p *Platform) Kill() {
	p.Cmd.Process.Kill()
	<-p.done
}

// Children are the processes that caped has started: its enclave.
func (p *Platform) Children() []int {
	p.t.Helper()
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.Cmd.Process.Pid))
	if err != nil {
		p.t.Fatal(err)
	}
	var all []int
	for _, path := range lists {
		b, err := os.ReadFile(path)
		if err != nil { // a thread that has ended
			continue
		}
		for _, field := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				p.t.Fatal(err)
			}
			all = append(all, pid)
		}
	}
	return all
}

// Env are the variables of DIR/env, as a shell would set them, and nothing else of ours.
func (p *Platform) Env() []string {
	text, err := os.ReadFile(filepath.Join(p.Dir, "env"))
	if err != nil {
		p.t.Fatal(err)
	}
	env := []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + p.t.TempDir(), "NO_COLOR=1"}
	for line := range strings.Lines(string(text)) {
		if set, ok := strings.CutPrefix(strings.TrimSpace(line), "export "); ok {
			name, value, _ := strings.Cut(set, "=")
			env = append(env, name+"="+strings.Trim(value, "'"))
		}
	}
	return env
}

// Token is the access token of the user dev.
func (p *Platform) Token() string {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join(p.Dir, "config", "auth"))
	if err != nil {
		p.t.Fatal(err)
	}
	var login struct {
		Access string `json:"access_token"`
	}
	if err := json.Unmarshal(b, &login); err != nil || login.Access == "" {
		p.t.Fatalf("config/auth holds no token: %v", err)
	}
	return login.Access
}
