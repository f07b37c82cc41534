package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// eventually waits until what is true.
func eventually(t testing.TB, name string, what func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !what(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("it does not happen: %s", name)
			return
		}
	}
}

// groupsOf lists the cgroups of one runtime.
func groupsOf(s *Sandbox, prefix string) (found []string) {
	for _, parent := range s.groups.dirs {
		dirs, _ := filepath.Glob(filepath.Join(parent, prefix+"*"))
		found = append(found, dirs...)
	}
	return found
}

// nothingLeft closes the sandbox and fails when anything of it is left.
func nothingLeft(t *testing.T, s *Sandbox, pids ...int) {
	t.Helper()
	closed(t, s)
	if len(s.jails) != 0 || len(s.users.taken) != 0 {
		t.Errorf("%d jails and %d users are left", len(s.jails), len(s.users.taken))
	}
	if _, err := os.Stat(s.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the sandbox's folder: %v", err)
	}
	if found := groupsOf(s, s.groups.prefix); len(found) != 0 {
		t.Errorf("cgroups are left: %q", found)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(s.dir)) {
		t.Errorf("mounts are left: %v", err)
	}
	if slices.ContainsFunc(pids, alive) {
		t.Errorf("processes are left of %v", pids)
	}
}

// marked lists processes whose command line has mark.
func marked(t *testing.T, mark string) (pids []int) {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		if data, err := os.ReadFile(p); err == nil && bytes.Contains(data, []byte(mark)) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestJailLeavesNothing(t *testing.T) {
	s := newSandbox(t)
	mark := fmt.Sprintf("%d.%d", 100000+os.Getpid(), time.Now().UnixNano()) // seconds to sleep
	j := start(t, s, function(t, "import os, signal, subprocess\ndef cape_handler(x):\n"+
		"  for s in (signal.SIGTERM, signal.SIGHUP): signal.signal(s, signal.SIG_IGN)\n"+
		"  for _ in range(3): subprocess.Popen(['/bin/sleep', '"+mark+"'], start_new_session=True)\n  os._exit(0)"))
	if _, err := call(t, j, ""); err == nil {
		t.Error("no error")
	}
	wait(t, j)
	if pids := marked(t, mark); len(pids) != 0 {
		t.Errorf("processes outlived their jail: %v", pids)
	}
	nothingLeft(t, s, j.keeper.pid, j.worker.pid)
}

// TestJailLeavesNoFiles: folders that nobody may list, and more of them in each other than can be open at once.
func TestJailLeavesNoFiles(t *testing.T) {
	s := newSandbox(t)
	kept := filepath.Join(t.TempDir(), "kept")
	if err := os.WriteFile(kept, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	j := start(t, s, function(t, "import os\ndef cape_handler(x):\n  os.mkdir('closed', 0o300)\n  open('closed/file', 'w').close()\n  os.chmod('closed', 0)\n"+
		"  os.symlink('"+filepath.Dir(kept)+"', 'link')\n  os.symlink('"+filepath.Dir(kept)+"', 'closed/link') if os.access('closed', 3) else 0\n"+
		"  for _ in range(1200):\n    os.mkdir('d', 0o300)\n    os.chdir('d')\n"+
		"  try: os.chmod('"+kept+"', 0o666)\n  except OSError: pass\n  open('f', 'w').close()\n  return 'made'"))
	out, err := call(t, j, "")
	if err != nil || out != "made" {
		t.Fatal(out, err)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(kept); err != nil || info.Mode() != 0o600 {
		t.Errorf("a file of the runtime's user: %v, %v", info, err)
	}
	if j.dir != "" {
		if _, err := os.Lstat(j.dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the jail's folder: %v", err)
		}
	}
	nothingLeft(t, s)
}

// TestJailCollectsOrphans: the keeper buries what a function leaves to it.
func TestJailCollectsOrphans(t *testing.T) {
	s := newSandbox(t)
	out := run(t, s, "import os, time\ndef cape_handler(x):\n  for _ in range(120):\n    if (p := os.fork()) == 0:\n      if os.fork() == 0: os._exit(0)\n      os._exit(0)\n"+
		"    os.waitpid(p, 0)\n    time.sleep(.003)\n  return 'more than it may have at once'")
	if out != "more than it may have at once" {
		t.Error(out)
	}
}

// TestSandboxKilled kills a runtime with a jail in it.
func TestSandboxKilled(t *testing.T) {
	dir := t.TempDir()
	spec := function(t, "while True: pass")
	if err := os.Symlink(spec.Tree, filepath.Join(dir, "tree")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], hostArg, dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 512)
	n, err := out.Read(b)
	var pids [3]int
	var prefix string
	_, scan := fmt.Sscan(string(b[:n]), new(string), &pids[0], &pids[1], &pids[2], &prefix)
	cmd.Process.Kill()
	cmd.Wait()
	if err != nil || scan != nil {
		t.Fatalf("%q, %v, %v", b[:n], err, scan)
	}
	eventually(t, "all processes end", func() bool { return !slices.ContainsFunc(pids[:], alive) })
	os.RemoveAll(filepath.Join(dir, "code"))
	os.Rename(filepath.Join(dir, "jails"), filepath.Join(dir, "old"))
	cfg := config(t, dir)
	cfg.Dir = filepath.Join(dir, "old")
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, s)
	if entries, err := os.ReadDir(cfg.Dir); err != nil || len(entries) != 1 {
		t.Errorf("the next sandbox finds %v, %v", entries, err)
	}
	s.groups.sweep(prefix, 0)
	if found := groupsOf(s, prefix); len(found) != 0 && strings.HasPrefix(prefix, jailPrefix) {
		t.Errorf("cgroups are left: %q", found)
	}
}

func TestSandboxClose(t *testing.T) {
	s := newSandbox(t)
	spec := function(t, "")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			j, err := s.Start(t.Context(), spec)
			if err == nil {
				<-j.Done()
			} else if !errors.Is(err, ErrClosed) && !errors.Is(err, ErrSetup) {
				t.Errorf("Start = %v", err)
			}
		})
	}
	time.Sleep(20 * time.Millisecond)
	nothingLeft(t, s)
	wg.Wait()
	closed(t, s)
	if _, err := s.Start(t.Context(), spec); !errors.Is(err, ErrClosed) {
		t.Errorf("Start after Close = %v", err)
	}
}

func TestSandboxCancelled(t *testing.T) {
	s := newSandbox(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Start(ctx, function(t, "")); !errors.Is(err, context.Canceled) {
		t.Errorf("Start = %v", err)
	}
	nothingLeft(t, s)
}

// TestSandboxManyRuns: as many descriptors and processes after as before.
func TestSandboxManyRuns(t *testing.T) {
	s := newSandbox(t)
	spec := function(t, "def cape_handler(x): return x")
	descriptors := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	once := func() {
		j, err := s.Start(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := call(t, j, "x"); err != nil || out != "x" {
			t.Errorf("%q, %v", out, err)
		}
		closed(t, j)
		j.In.Close()
		j.Out.Close()
	}
	once()
	// A jail is eight descriptors; those that wait come and go.
	before, waiting := descriptors(), 8*(1+builders+1)
	for range 40 {
		once()
	}
	if after := descriptors(); after > before+waiting {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	nothingLeft(t, s)
}

// TestSandboxRenewsServer: a fork server ends after its time, with its last jail.
func TestSandboxRenewsServer(t *testing.T) {
	s := newSandbox(t)
	j := start(t, s, function(t, "def cape_handler(x): return x"))
	old := j.server
	old.mu.Lock()
	old.served = serverJails
	old.mu.Unlock()
	var next *Jail
	eventually(t, "another server forks", func() bool {
		next = start(t, s, function(t, ""))
		return next.server != old
	})
	if next.server.process.Pid == old.process.Pid || !alive(old.process.Pid) {
		t.Error("the old server is not left alone")
	}
	if _, err := call(t, j, ""); err != nil {
		t.Errorf("a jail of the old server: %v", err)
	}
	for other := range s.jails {
		if other.server == old && other != j {
			closed(t, other)
		}
	}
	closed(t, j)
	eventually(t, "the old server ends", func() bool { return !alive(old.process.Pid) })
}

// TestSandboxServerDiesAsked: who asked a server that ends before it answers does not wait for it, though jails of it live on.
func TestSandboxServerDiesAsked(t *testing.T) {
	s := newSandbox(t)
	j := start(t, s, function(t, "def cape_handler(x): return x"))
	if err := j.server.process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(500*time.Millisecond, func() { j.server.process.Kill() })
	for began := time.Now(); ; { // jails that wait come first
		next, err := s.newJail(t.Context())
		if err == nil {
			defer closed(t, next)
		}
		if time.Since(began) > setupTime/2 {
			t.Fatalf("it took %s: %v", time.Since(began), err)
		}
		if err == nil && next.server != j.server {
			return
		}
	}
}

// TestSandboxClosesWhileBuilding: Close waits neither for a jail that will never be built, nor leaves anything of it.
func TestSandboxClosesWhileBuilding(t *testing.T) {
	s := newSandbox(t)
	j := start(t, s, function(t, "def cape_handler(x): return x")) // from here on the builders build
	if err := j.server.process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	built := make(chan error, 1)
	go func() {
		_, err := s.newJail(t.Context())
		built <- err
	}()
	time.Sleep(200 * time.Millisecond) // until it asked
	began := time.Now()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > setupTime/2 {
		t.Errorf("closing took %s", took)
	}
	if err := <-built; err == nil {
		t.Error("a jail of a server that stands still")
	}
	nothingLeft(t, s)
}

// TestSandboxServerDies: its jails end with it, and the next one comes from another.
func TestSandboxServerDies(t *testing.T) {
	s := newSandbox(t)
	j := start(t, s, function(t, "def cape_handler(x): return x"))
	j.server.process.Kill()
	if !s.plain {
		wait(t, j)
	}
	eventually(t, "another server forks", func() bool {
		next, err := s.Start(t.Context(), function(t, ""))
		if err != nil {
			return false
		}
		defer closed(t, next)
		return next.server != j.server
	})
}
