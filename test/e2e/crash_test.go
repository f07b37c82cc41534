package e2e

import (
	"crypto/rand"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cape-functions/cape/test/platform"
)

// TestKillDuringDeploy kills the host at many moments of a deploy. Whatever the
// moment, after a restart every function that was acknowledged runs, and no
// function is there in part.
func TestKillDuringDeploy(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	t.Parallel() // beside a handler that hangs for a minute
	dir := t.TempDir()
	noise := make([]byte, 2<<20)
	rand.Read(noise)
	folder := function(t, "echo", map[string]string{"app.py": "def cape_handler(d): return d\n", "noise": hex.EncodeToString(noise)})
	p := start(t, dir)
	first := p.Deploy(folder)
	for _, after := range []time.Duration{10, 60, 120, 200, 300, 450} {
		cmd := exec.Command(platform.Binary("cape"), "deploy", folder, "-o", "json")
		cmd.Env = p.Env()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after * time.Millisecond)
		p.Kill()
		acknowledged := cmd.Wait() == nil
		p = start(t, dir)
		if got := p.Must("run", first, "x"); got != "x\n" {
			t.Fatalf("after %v: the first function: %q", after, got)
		}
		got := p.Must("run", "dev/echo", "y") // the newest that exists, whole
		if got != "y\n" {
			t.Fatalf("after %v (acknowledged: %v): %q", after, acknowledged, got)
		}
	}
	if left := processes(t, dir); len(left) != 2 {
		t.Errorf("processes of one platform: %v", left)
	}
}

// processes lists those that have dir in their command line.
func processes(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, path := range all {
		b, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(b), dir) {
			found = append(found, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return found
}
