package e2e

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
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
	for pid, line := range processes(t, dir) {
		if !descends(pid, p.Cmd.Process.Pid) {
			t.Errorf("a process of a platform that was killed still runs: %d %s", pid, line)
		}
	}
}

// descends says whether a process was started by another or by what that started. One
// that ended meanwhile is none to complain about.
func descends(pid, from int) bool {
	for pid > 1 {
		if pid == from {
			return true
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return true
		}
		fields := strings.Fields(string(stat[strings.LastIndex(string(stat), ")")+1:]))
		if pid, err = strconv.Atoi(fields[1]); err != nil {
			return false
		}
	}
	return false
}

// processes lists those that have dir in their command line.
func processes(t *testing.T, dir string) map[int]string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]string{}
	for _, path := range all {
		b, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(b), dir) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				t.Fatal(err)
			}
			found[pid] = strings.ReplaceAll(string(b), "\x00", " ")
		}
	}
	return found
}
