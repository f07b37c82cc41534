package hostile

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// remains is what a platform holds of the machine.
type remains struct {
	processes   int // descendants of caped
	descriptors int // of caped and the runtime, which are not jails
	mounts      int // that the runtime sees
	cgroups     int
	files       int // in the runtime's scratch folders
}

// settleTime is how long the dead may take to be buried.
const settleTime = 15 * time.Second

// settled waits until what the platform holds is as good says, and returns it.
func (a *arena) settled(t *testing.T, good func(remains) bool) remains {
	t.Helper()
	deadline := time.Now().Add(settleTime)
	last := a.count(t)
	for {
		time.Sleep(200 * time.Millisecond)
		now := a.count(t)
		if now == last && good(now) || time.Now().After(deadline) {
			return now
		}
		last = now
	}
}

// checkRemains fails when the platform holds more than it did at the beginning, but for
// slack prepared jails.
func (a *arena) checkRemains(t *testing.T, slack int) {
	t.Helper()
	if a.machine {
		return
	}
	fits := func(r remains) bool {
		b := a.baseline
		return r.processes <= b.processes+2*slack && r.descriptors <= b.descriptors+8*slack && r.mounts <= b.mounts+slack &&
			r.cgroups <= b.cgroups+4*slack && r.files <= b.files+slack
	}
	if r := a.settled(t, fits); !fits(r) {
		t.Errorf("left behind: %+v, at the beginning it was %+v", r, a.baseline)
	}
}

// checkMark fails when a process that an attacker named is still there.
func (a *arena) checkMark(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(settleTime)
	for {
		found := marked(a.mark)
		if len(found) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("hostile processes are still there: %v", found)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func marked(name string) (pids []int) {
	for _, pid := range allPIDs() {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err == nil && strings.TrimSpace(string(comm)) == name {
			pids = append(pids, pid)
		}
	}
	return pids
}

func allPIDs() (pids []int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// descendants are the processes below pid.
func descendants(pid int) []int {
	parents := map[int]int{}
	for _, p := range allPIDs() {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p))
		if err != nil {
			continue
		}
		_, rest, ok := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		if !ok || len(fields) < 2 {
			continue
		}
		if parent, err := strconv.Atoi(fields[1]); err == nil {
			parents[p] = parent
		}
	}
	var found []int
	for p := range parents {
		for up := parents[p]; up > 1; up = parents[up] {
			if up == pid {
				found = append(found, p)
				break
			}
		}
	}
	return found
}

func (a *arena) count(t *testing.T) remains {
	t.Helper()
	caped := a.Cmd.Process.Pid
	r := remains{descriptors: openFiles(caped)}
	groups, frozen := map[string]bool{}, map[string]bool{}
	for _, pid := range descendants(caped) {
		own := cgroupsOf(pid)
		if i := slices.IndexFunc(own, isFrozen); i >= 0 { // one that waits ahead of a call, for two minutes
			frozen[own[i]] = true
			continue
		}
		r.processes++
		for _, g := range own {
			groups[g] = true
		}
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil || !strings.HasPrefix(filepath.Base(exe), "cape-runtime") {
			continue
		}
		r.descriptors += openFiles(pid)
		if m, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid)); err == nil {
			r.mounts += strings.Count(string(m), "\n")
		}
		r.files += scratchFiles(pid)
	}
	r.cgroups = len(groups)
	r.descriptors -= perJail * len(frozen)
	return r
}

// perJail is how many descriptors the runtime has of a jail.
const perJail = 8

// isFrozen tells whether a line of /proc/PID/cgroup names a cgroup that is.
func isFrozen(line string) bool {
	path, ok := strings.CutPrefix(line, "0::")
	for _, mount := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if text, err := os.ReadFile(filepath.Join(mount, path, "cgroup.freeze")); ok && err == nil && strings.TrimSpace(string(text)) == "1" {
			return true
		}
	}
	return false
}

func openFiles(pid int) int {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0
	}
	return len(entries)
}

// cgroupsOf are the cgroups that a process is in.
func cgroupsOf(pid int) (found []string) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		found = append(found, strings.TrimSpace(line))
	}
	return found
}

// scratchFiles counts what lies in the memory file systems that the runtime mounted for
// itself.
func scratchFiles(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return 0
	}
	n := 0
	var seen []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 5 || !strings.Contains(line, " - tmpfs ") || !strings.Contains(fields[4], "cape") || slices.Contains(seen, fields[4]) {
			continue
		}
		seen = append(seen, fields[4])
		root := fmt.Sprintf("/proc/%d/root%s", pid, fields[4])
		_ = filepath.WalkDir(root, func(_ string, _ fs.DirEntry, err error) error { // what goes away meanwhile does not count
			if err == nil {
				n++
			}
			return nil
		})
	}
	return n
}
