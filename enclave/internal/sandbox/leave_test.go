package sandbox

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// left fails when anything of a jail is left.
func left(t *testing.T, s *Sandbox) {
	t.Helper()
	s.mu.Lock()
	jails := len(s.jails)
	s.mu.Unlock()
	s.users.mu.Lock()
	ids := len(s.users.taken)
	s.users.mu.Unlock()
	if jails != 0 || ids != 0 {
		t.Errorf("%d jails and %d users are left", jails, ids)
	}
	folders, err := os.ReadDir(s.dir)
	if err != nil || len(folders) != 1 {
		t.Errorf("left in the sandbox's folder: %v, %v", folders, err)
	}
	for _, parent := range []string{s.groups.memory, s.groups.pids} {
		if parent != "" {
			if found := groupsOf(t, parent, s.groups.prefix); len(found) != 0 {
				t.Errorf("cgroups are left: %q", found)
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(s.dir)) {
		t.Errorf("mounts are left: %v", err)
	}
	if pids := children(t); len(pids) != 0 {
		t.Errorf("processes are left: %v", pids)
	}
}

// groupsOf lists the cgroups of one runtime.
func groupsOf(t *testing.T, parent, prefix string) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(parent, prefix+"*"))
	if err != nil || !strings.HasPrefix(prefix, jailPrefix) {
		t.Fatal(prefix, err)
	}
	return dirs
}

func children(t *testing.T) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && parentOf(pid) == os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// named lists processes, seen from outside, that have an argument.
func named(t *testing.T, argument string) []int {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, p := range paths {
		if data, err := os.ReadFile(p); err == nil && bytes.Contains(data, []byte("\x00"+argument+"\x00")) {
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
	mark := "mark-" + filepath.Base(t.TempDir()) + strconv.Itoa(os.Getpid())
	spec := probeSpec(t, "linger", mark)
	spec.Tree = writeTree(t)
	if out, exit := output(t, s, spec); out != "started\n" || exit != (Exit{}) {
		t.Errorf("%q, %+v", out, exit)
	}
	if pids := named(t, mark); len(pids) != 0 {
		t.Errorf("processes outlived their jail: %v", pids)
	}
	left(t, s)
}

func TestJailCollectsOrphans(t *testing.T) {
	s := newSandbox(t)
	if !s.ns.all {
		return // the probe would see the machine's processes
	}
	if out, _ := output(t, s, probeSpec(t, "orphan")); out != "done\n" {
		t.Error(out)
	}
}

// TestSandboxKilled kills a runtime with a jail in it.
func TestSandboxKilled(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], probePrefix+"host", dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 128)
	n, err := out.Read(b)
	prefix, ready := strings.CutPrefix(strings.TrimSpace(string(b[:n])), "ready ")
	if err != nil || !ready {
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("%q, %v", b[:n], err)
	}
	if len(named(t, dir)) < 2 { // the host and the lingering program
		t.Errorf("the program does not run")
	}
	cmd.Process.Kill()
	cmd.Wait()
	end := time.Now().Add(10 * time.Second)
	for len(named(t, dir)) != 0 && time.Now().Before(end) {
		time.Sleep(10 * time.Millisecond)
	}
	if pids := named(t, dir); len(pids) != 0 {
		t.Errorf("processes outlived the runtime: %v", pids)
	}
	s, err := New(Config{Dir: dir, AllowDegraded: true})
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, s)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("the next sandbox finds %v, %v", entries, err)
	}
	s.groups.sweep(prefix, 0)
	for _, parent := range []string{s.groups.memory, s.groups.pids} {
		if parent != "" {
			if found := groupsOf(t, parent, prefix); len(found) != 0 {
				t.Errorf("cgroups are left: %q", found)
			}
		}
	}
}

func TestSandboxClose(t *testing.T) {
	s, err := New(Config{Dir: t.TempDir(), AllowDegraded: true})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			j, err := s.Start(t.Context(), probeSpec(t, "sleep"))
			if err == nil {
				<-j.Done()
			} else if !errors.Is(err, ErrClosed) && !errors.Is(err, ErrSetup) {
				t.Errorf("Start = %v", err)
			}
		})
	}
	time.Sleep(30 * time.Millisecond)
	closed(t, s)
	wg.Wait()
	closed(t, s)
	if _, err := s.Start(t.Context(), probeSpec(t, "sleep")); !errors.Is(err, ErrClosed) {
		t.Errorf("Start after Close = %v", err)
	}
	if _, err := os.Stat(s.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the sandbox's folder: %v", err)
	}
	if pids := children(t); len(pids) != 0 {
		t.Errorf("processes are left: %v", pids)
	}
}

func TestSandboxCancelled(t *testing.T) {
	s := newSandbox(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Start(ctx, probeSpec(t, "sleep")); !errors.Is(err, context.Canceled) {
		t.Errorf("Start = %v", err)
	}
	left(t, s)
}

// TestSandboxManyRuns: as many descriptors and processes after as before.
func TestSandboxManyRuns(t *testing.T) {
	s := newSandbox(t)
	descriptors := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	run := func() {
		j, err := s.Start(t.Context(), Spec{Args: []string{"/bin/true"}, Name: "fn"})
		if err != nil {
			t.Fatal(err)
		}
		wait(t, j)
	}
	run()
	before := descriptors()
	for range 20 {
		run()
	}
	if after := descriptors(); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
	left(t, s)
}

func contextForHost() context.Context { return context.Background() }
