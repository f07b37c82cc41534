package platform

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Result is what one command did.
type Result struct {
	Out, Err string
	Code     int
}

// Cape runs the command line against p.
func (p *Platform) Cape(stdin string, args ...string) Result {
	p.t.Helper()
	return p.CapeEnv(p.Env(), stdin, args...)
}

// CapeEnv is Cape with an environment of the caller's.
func (p *Platform) CapeEnv(env []string, stdin string, args ...string) Result {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, Binary("cape"), args...)
	cmd.Env, cmd.Stdin = env, strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		p.t.Fatalf("cape %s did not end\n%s\nplatform:\n%s", strings.Join(args, " "), errs.String(), p.Log)
	}
	code := 0
	if err != nil {
		code = cmd.ProcessState.ExitCode()
	}
	return Result{out.String(), errs.String(), code}
}

// Must runs a command that has to succeed and returns what it printed.
func (p *Platform) Must(args ...string) string {
	p.t.Helper()
	r := p.Cape("", args...)
	if r.Code != 0 {
		p.t.Fatalf("cape %s: exit %d\n%s\nplatform:\n%s", strings.Join(args, " "), r.Code, r.Err, tail(p.Log.String()))
	}
	return r.Out
}

func tail(s string) string { return s[max(0, len(s)-4000):] }

// Deploy deploys a function and returns its id.
func (p *Platform) Deploy(dir string, flags ...string) string {
	p.t.Helper()
	var d struct {
		ID string `json:"function_id"`
	}
	out := p.Must(append([]string{"deploy", dir, "-o", "json"}, flags...)...)
	if err := json.Unmarshal([]byte(out), &d); err != nil || d.ID == "" {
		p.t.Fatalf("deploy printed %q: %v", out, err)
	}
	return d.ID
}

// CapedOnce runs a caped that is expected to end with an error by itself.
func CapedOnce(t *testing.T, args ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, Binary("caped"), args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err == nil || ctx.Err() != nil {
		t.Fatalf("caped %v: %v", args, err)
	}
	return Result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// Function writes a deploy folder.
func Function(t *testing.T, name string, files map[string]string) string {
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

// App is the files of a function that is one app.py.
func App(source string) map[string]string { return map[string]string{"app.py": source} }
