package e2e

import (
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// smallDisk is a directory on a file system of its own that holds few bytes.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("cape-test", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("a file system of %s cannot be mounted here (%v); the continuous checks run where it can", size, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func random(t *testing.T, path string, size int) {
	t.Helper()
	b := make([]byte, size)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestDiskFull: a deploy for which the server's disk has no room fails with a
// clear error, leaves nothing behind, and costs nothing that was there.
func TestDiskFull(t *testing.T) {
	dir := smallDisk(t, "24m")
	p := start(t, dir)
	echo := p.Deploy(function(t, "echo", app("def cape_handler(d): return d\n")))
	large := function(t, "large", app("def cape_handler(d): return str(len(open('noise', 'rb').read()))\n"))
	random(t, filepath.Join(large, "noise"), 32<<20)
	check := func(when string) {
		t.Helper()
		r := p.Cape("", "deploy", large)
		if r.Code != 1 || r.Out != "" || !strings.Contains(r.Err, "quota") {
			t.Errorf("%s: %+v", when, r)
		}
		if got := p.Must("run", echo, "x"); got != "x\n" {
			t.Errorf("%s: the function that was there: %q", when, got)
		}
		var list struct{ Count int }
		if err := json.Unmarshal([]byte(p.Must("list", "-o", "json")), &list); err != nil || list.Count != 1 {
			t.Errorf("%s: %d functions, %v", when, list.Count, err)
		}
	}
	check("a function larger than the disk")
	check("the same again")
	// Not a byte left: neither body nor row can be written.
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		t.Fatal(err)
	}
	for size := 1 << 20; size >= 1; size /= 4 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
	}
	f.Close()
	if r := p.Cape("", "deploy", function(t, "small", app("def cape_handler(d): return d\n"))); r.Code != 1 || r.Out != "" {
		t.Errorf("a deploy onto a full disk: %+v", r)
	}
	if got := p.Must("run", echo, "y"); got != "y\n" {
		t.Errorf("on a full disk: %q", got)
	}
	p.Stop()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	p = start(t, dir)
	if got := p.Must("run", echo, "z"); got != "z\n" {
		t.Errorf("after a restart with room: %q", got)
	}
	if got := p.Must("run", p.Deploy(function(t, "later", app("def cape_handler(d): return d\n"))), "l"); got != "l\n" {
		t.Errorf("a deploy with room: %q", got)
	}
	p.Stop()
}
