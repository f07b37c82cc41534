package e2e

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cape-functions/cape/test/platform"
)

// home is a directory that belongs to the user who runs the platform.
func home(t *testing.T, attr *syscall.SysProcAttr) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cape-home-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if attr.Credential != nil {
		if err := os.Chown(dir, int(attr.Credential.Uid), int(attr.Credential.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestTwoTerminals: as an ordinary user, without a flag: one terminal runs caped
// dev, a second needs to be told nothing.
func TestTwoTerminals(t *testing.T) {
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		attr.Credential = &syscall.Credential{Uid: 12345, Gid: 12345}
	}
	dir := home(t, attr)
	env := []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "NO_COLOR=1"}
	command := func(name string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), platform.Binary(name), args...)
		cmd.Env, cmd.SysProcAttr, cmd.Dir = env, attr, dir
		return cmd
	}
	var log platform.Buffer
	server := command("caped", "dev")
	server.Stderr = &log
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer server.Wait()
	defer server.Process.Signal(syscall.SIGTERM)
	ready := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		ready <- line
	}()
	select {
	case line := <-ready:
		if line != "cape is ready at http://127.0.0.1:7676\n" {
			if strings.Contains(log.String(), "address already in use") {
				t.Skip("somebody else uses the fixed port on this machine")
			}
			t.Fatalf("%q\n%s", line, &log)
		}
	case <-time.After(2 * time.Minute):
		t.Fatalf("not ready\n%s", &log)
	}
	cape := func(want string, args ...string) {
		t.Helper()
		cmd := command("cape", args...)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil || want != "" && out.String() != want {
			t.Errorf("cape %v: %v, %q\n%s", args, err, out.String(), errs.String())
		}
	}
	cape("", "function", "create", "hello")
	cape("", "deploy", "hello")
	cape("hi\n", "run", "dev/hello", "hi")
	secrets := filepath.Join(dir, ".local", "share", "cape", "dev", "kms")
	if info, err := os.Stat(secrets); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("%v, %v: others may look into %s", info, err, secrets)
	}
}
