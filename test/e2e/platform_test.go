// Package e2e runs the real binaries against each other, as a user would.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// bin holds the binaries under test, built once.
var bin string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "cape-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin = dir
	cmd := exec.Command("go", "build", "-o", dir, "./client/cmd/cape", "./host/cmd/caped", "./enclave/cmd/cape-runtime-dev")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// platform is a running `caped dev`.
type platform struct {
	t    *testing.T
	dir  string
	log  *lockedBuffer
	cmd  *exec.Cmd
	done chan struct{}
	url  string
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// start brings a platform up in dir and stops it at the end of the test.
func start(t *testing.T, dir string, flags ...string) *platform {
	t.Helper()
	p := &platform{t: t, dir: dir, log: &lockedBuffer{}, done: make(chan struct{})}
	args := append([]string{"dev", "--data-dir", dir, "--listen", "127.0.0.1:0", "--verbose"}, flags...)
	p.cmd = exec.Command(filepath.Join(bin, "caped"), args...)
	p.cmd.Stderr = p.log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
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
		p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(p.stop)
	select {
	case p.url = <-ready:
	case <-p.done:
		t.Fatalf("caped dev ended:\n%s", p.log)
	case <-time.After(2 * time.Minute):
		t.Fatalf("caped dev was not ready in two minutes:\n%s", p.log)
	}
	return p
}

// stop ends the platform as an operator would.
func (p *platform) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(6 * time.Second):
		p.t.Error("caped did not end within 6 s of SIGTERM")
		p.cmd.Process.Kill()
		<-p.done
	}
}

// kill ends it as a power cut would.
func (p *platform) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// env are the variables of DIR/env, as a shell would set them, and nothing else of ours.
func (p *platform) env() []string {
	text, err := os.ReadFile(filepath.Join(p.dir, "env"))
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

// result is what one command did.
type result struct {
	out, err string
	code     int
}

// cape runs the command line against p.
func (p *platform) cape(stdin string, args ...string) result {
	p.t.Helper()
	return p.capeEnv(p.env(), stdin, args...)
}

func (p *platform) capeEnv(env []string, stdin string, args ...string) result {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "cape"), args...)
	cmd.Env, cmd.Stdin = env, strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		p.t.Fatalf("cape %s did not end\n%s\nplatform:\n%s", strings.Join(args, " "), errs.String(), p.log)
	}
	code := 0
	if err != nil {
		code = cmd.ProcessState.ExitCode()
	}
	return result{out.String(), errs.String(), code}
}

// must runs a command that has to succeed and returns what it printed.
func (p *platform) must(args ...string) string {
	p.t.Helper()
	r := p.cape("", args...)
	if r.code != 0 {
		p.t.Fatalf("cape %s: exit %d\n%s\nplatform:\n%s", strings.Join(args, " "), r.code, r.err, tail(p.log.String()))
	}
	return r.out
}

func tail(s string) string { return s[max(0, len(s)-4000):] }

// function writes a deploy folder.
func function(t *testing.T, name string, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	for path, text := range files {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func app(source string) map[string]string { return map[string]string{"app.py": source} }

// deploy deploys a function and returns its id.
func (p *platform) deploy(dir string, flags ...string) string {
	p.t.Helper()
	var d struct {
		ID string `json:"function_id"`
	}
	out := p.must(append([]string{"deploy", dir, "-o", "json"}, flags...)...)
	if err := json.Unmarshal([]byte(out), &d); err != nil || d.ID == "" {
		p.t.Fatalf("deploy printed %q: %v", out, err)
	}
	return d.ID
}
