package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// preparePlain makes what there is without namespaces: a private copy of the
// function, and this process as the one to whom orphans fall.
func preparePlain(o *order, r *report) error {
	r.NoPivot, r.Nested, r.NoOverlay = "no namespaces", "no namespaces", "no namespaces"
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("becoming the parent of orphans: %w", err)
	}
	work := workDir(o)
	for _, dir := range []string{filepath.Join(o.Root, "tmp"), work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.Chown(dir, o.ID, o.ID); err != nil && o.Switch {
			return err
		}
	}
	if o.Tree != "" {
		if err := copyTree(o.Tree, work, o.ID); err != nil {
			return fmt.Errorf("copying the function: %w", err)
		}
	}
	return bindSocket(o, r)
}

// killChildren ends every process that this one started or inherited. Each
// round kills the children there are; those they leave behind become children.
func killChildren() {
	self := os.Getpid()
	for {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return
		}
		for _, e := range entries {
			if pid, err := strconv.Atoi(e.Name()); err == nil && parentOf(pid) == self {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		for {
			pid, err := syscall.Wait4(-1, nil, 0, nil)
			if err == syscall.ECHILD {
				return
			}
			if err == nil && pid > 0 {
				break
			}
		}
	}
}

// parentOf reads the fourth field of /proc/PID/stat; the second, a name in
// parentheses, may hold anything.
func parentOf(pid int) int {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return 0
	}
	return parent
}
