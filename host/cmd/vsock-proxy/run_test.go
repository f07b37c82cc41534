package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cape-functions/cape/host/internal/vsockproxy"
	"github.com/cape-functions/cape/vsock"
)

// log collects what a command writes while it runs.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// waitFor waits for a line that matches, and gives its first group.
func (l *log) waitFor(t *testing.T, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	for range 1000 {
		if m := re.FindStringSubmatch(l.String()); m != nil {
			return m[len(m)-1]
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("nothing like %s in %s", pattern, l)
	return ""
}

func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b, _ := io.ReadAll(c)
				_, _ = c.Write(b)
			}()
		}
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// links makes the folders that stand in for vsock; short, as socket paths are.
func links(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for _, side := range []string{"host", "enclave"} {
		if err := os.Mkdir(filepath.Join(dir, side), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func config(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vsock-proxy.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// through sends text to a vsock port from inside.
func through(t *testing.T, dir string, port uint32, text string) string {
	t.Helper()
	c, err := vsock.Unix(dir, true).Dial(t.Context(), port)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(c, text)
	_ = c.(*net.UnixConn).CloseWrite()
	b, _ := io.ReadAll(c)
	return string(b)
}

// start runs the command until the test ends.
func start(t *testing.T, args ...string) *log {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out := &log{}
	done := make(chan error, 1)
	go func() { done <- run(ctx, args, out, out) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("ended with %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("does not end")
		}
	})
	return out
}

func TestForwardsAsAWSs(t *testing.T) {
	port, dir := echo(t), links(t)
	file := config(t, "allowlist:\n- {address: 127.0.0.1, port: "+port+", allow_private: true}\n")
	// Flags may stand behind, as in AWS's service unit.
	start(t, "8000", "127.0.0.1", port, "--config", file, "-w", "2", "--links", dir).waitFor(t, "listening vsock_port=8000")
	if got := through(t, dir, 8000, "hello"); got != "hello" {
		t.Errorf("got %q", got)
	}
}

func TestForwardsSeveralEndpoints(t *testing.T) {
	one, two, dir := echo(t), echo(t), links(t)
	file := config(t, fmt.Sprintf("endpoints:\n- {local_port: 8000, address: 127.0.0.1, port: %s, allow_private: true}\n- local_port: 8001\n  address: 127.0.0.1\n  port: %s\n", one, two))
	out := start(t, "--config", file, "--links", dir, "--metrics", "127.0.0.1:0", "--num_workers", "8")
	addr := out.waitFor(t, `serving metrics" address=(\S+)`)
	if got := through(t, dir, 8000, "hello"); got != "hello" {
		t.Errorf("got %q", got)
	}
	if got := through(t, dir, 8001, "hello"); got != "" {
		t.Errorf("loopback without allow_private answers %q", got)
	}
	out.waitFor(t, "allow_private")
	r, err := http.Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil || !strings.Contains(string(text), `vsock_proxy_connections_total{endpoint="127.0.0.1:`+one+`",outcome="opened"} 1`) ||
		!strings.Contains(string(text), `vsock_proxy_connections_total{endpoint="127.0.0.1:`+two+`",outcome="denied"} 1`) {
		t.Errorf("%v: %s", err, text)
	}
}

func TestRefusals(t *testing.T) {
	dir := links(t)
	list := config(t, "allowlist:\n- {address: kms.us-east-1.amazonaws.com, port: 443}\n")
	empty := config(t, "")
	for _, tc := range []struct {
		name string
		args []string
		want error
	}{
		{"not listed", []string{"8000", "example.com", "443", "--config", list}, vsockproxy.ErrDenied},
		{"other port", []string{"8000", "kms.us-east-1.amazonaws.com", "80", "--config", list}, vsockproxy.ErrDenied},
		{"empty list", []string{"8000", "kms.us-east-1.amazonaws.com", "443", "--config", empty}, vsockproxy.ErrDenied},
		{"no endpoints", []string{"--config", list}, vsockproxy.ErrConfig},
		{"no file", []string{"8000", "kms.us-east-1.amazonaws.com", "443", "--config", filepath.Join(dir, "none")}, vsockproxy.ErrConfig},
		{"malformed file", []string{"--config", config(t, "allowlist: *\n")}, vsockproxy.ErrConfig},
		{"local port", []string{"0", "kms.us-east-1.amazonaws.com", "443", "--config", list}, vsockproxy.ErrConfig},
		{"remote port", []string{"8000", "kms.us-east-1.amazonaws.com", "https", "--config", list}, vsockproxy.ErrConfig},
		{"two arguments", []string{"8000", "example.com"}, nil},
		{"unknown flag", []string{"--allow-all"}, nil},
		{"both families", []string{"--config", list, "-4", "-6"}, nil},
		{"no workers", []string{"--config", list, "-w", "0"}, nil},
		{"metrics address", []string{"8000", "kms.us-east-1.amazonaws.com", "443", "--config", list, "--metrics", "nowhere"}, nil},
		{"links that are not there", []string{"8000", "kms.us-east-1.amazonaws.com", "443", "--config", list, "--links", filepath.Join(dir, "none")}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			err := run(ctx, append([]string{"--links", dir}, tc.args...), io.Discard, io.Discard)
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

func TestHelpAndVersion(t *testing.T) {
	for flag, want := range map[string]string{"--help": "allow_private", "-h": "LOCAL_PORT", "--version": revision} {
		var out bytes.Buffer
		if err := run(t.Context(), []string{flag}, &out, io.Discard); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %v, %s", flag, err, &out)
		}
	}
}

// Errors of a machine without AF_VSOCK are told as such.
func TestMissingVsock(t *testing.T) {
	for _, cause := range []error{os.ErrNotExist, syscall.EAFNOSUPPORT, syscall.ENODEV} {
		if err := explain(fmt.Errorf("listening: %w", cause)); !errors.Is(err, vsock.ErrUnsupported) || !errors.Is(err, cause) {
			t.Errorf("%v: %v", cause, err)
		}
	}
	if err := explain(syscall.EADDRINUSE); errors.Is(err, vsock.ErrUnsupported) {
		t.Error("a port in use counts as a missing AF_VSOCK")
	}
	if explain(nil) != nil {
		t.Error("nothing became an error")
	}
}

// The program itself ends on SIGTERM with status 0, and on errors with 1.
func TestSIGTERM(t *testing.T) {
	if os.Getenv("VSOCK_PROXY_MAIN") != "" {
		os.Args = append([]string{"vsock-proxy"}, strings.Split(os.Getenv("VSOCK_PROXY_MAIN"), " ")...)
		main()
		os.Exit(0)
	}
	port, dir := echo(t), links(t)
	file := config(t, "allowlist:\n- {address: 127.0.0.1, port: "+port+", allow_private: true}\n")
	start := func(args string) (*exec.Cmd, *log) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSIGTERM$")
		cmd.Env = append(os.Environ(), "VSOCK_PROXY_MAIN="+args)
		out := &log{}
		cmd.Stderr = out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, out
	}
	cmd, out := start("8000 127.0.0.1 " + port + " --config " + file + " --links " + dir)
	out.waitFor(t, "listening")
	held, err := vsock.Unix(dir, true).Dial(t.Context(), 8000)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := cmd.Wait(); err != nil || time.Since(begin) > 5*time.Second {
		t.Errorf("after %v: %v, %s", time.Since(begin), err, out)
	}
	cmd, out = start("8000 example.com 443 --config " + file + " --links " + dir)
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 1 || !strings.Contains(out.String(), "Error: ") {
		t.Errorf("refusal: %v, %s", err, out)
	}
}
