// Package testkit runs a package's tests again as other users and inside other
// namespaces: the same machine seen by root, by an ordinary user, by a runtime
// that was itself started in namespaces, and where there are none to be had.
package testkit

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// World is where tests run.
type World string

// Worlds.
const (
	Here     World = ""         // as the tests were started
	Ordinary World = "ordinary" // an ordinary user
	Nested   World = "nested"   // user, mount and network namespaces around the runtime, one user mapped
	Bare     World = "bare"     // an ordinary user who may not make user namespaces
	Legacy   World = "legacy"   // root, where no cgroups of version 2 are mounted
)

// worldVariable tells a test binary that was started again where it is.
const worldVariable = "CAPE_TEST_WORLD"

const (
	nobody   = 65534
	timeout  = 4 * time.Minute
	maxUsers = "/proc/sys/user/max_user_namespaces"
)

// Current is the world of this process.
func Current() World { return World(os.Getenv(worldVariable)) }

// Enter does what is left to do in a world; call it in TestMain.
func Enter() {
	switch Current() {
	case Bare:
		if err := os.WriteFile(maxUsers, []byte("0"), 0); err != nil {
			panic("testkit: forbidding user namespaces: " + err.Error())
		}
	case Legacy:
		info, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			panic("testkit: reading what is mounted: " + err.Error())
		}
		for line := range strings.Lines(string(info)) {
			if f := strings.Fields(line); strings.Contains(line, " - cgroup2 ") && unix.Unmount(f[4], unix.MNT_DETACH) != nil {
				panic("testkit: " + f[4] + " stays mounted")
			}
		}
	}
}

// Again runs the tests that match pattern in another world.
func Again(t *testing.T, w World, pattern string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cape-world-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	// Jails show the folder of the binary, which must not hold theirs.
	tmp, binary := filepath.Join(dir, "tmp"), filepath.Join(dir, "bin", "again.test")
	for _, d := range []string{tmp, filepath.Dir(binary)} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := copyExecutable(binary); err != nil {
		t.Fatal(err)
	}
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "-test.run="+pattern, "-test.v=false", "-test.timeout="+timeout.String())
	cmd.Env = append(os.Environ(), worldVariable+"="+string(w), "TMPDIR="+tmp, "HOME="+tmp)
	cmd.SysProcAttr = attributes(w)
	cmd.Dir = here
	owner := os.Getuid()
	if owner == 0 && w != Nested && w != Legacy {
		owner, cmd.Dir = nobody, tmp
	}
	for _, d := range []string{dir, tmp} {
		if err := os.Chown(d, owner, owner); err != nil && os.Getuid() == 0 {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Errorf("tests in world %q: %v\n%s", w, err, out.Bytes())
	}
	if !bytes.Contains(out.Bytes(), []byte("PASS")) || bytes.Contains(out.Bytes(), []byte("no tests to run")) {
		t.Errorf("no tests ran in world %q:\n%s", w, out.Bytes())
	}
}

func copyExecutable(to string) error {
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// attributes starts a process in world w. As an ordinary user already, the
// tests keep their user.
func attributes(w World) *syscall.SysProcAttr {
	root := os.Getuid() == 0
	user := os.Getuid()
	if root {
		user = nobody
	}
	one := func(inside, outside int) []syscall.SysProcIDMap {
		return []syscall.SysProcIDMap{{ContainerID: inside, HostID: outside, Size: 1}}
	}
	switch w {
	case Ordinary:
		if root {
			return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		}
	case Legacy:
		return &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	case Nested:
		return &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET,
			UidMappings: one(0, os.Getuid()), GidMappings: one(0, os.Getgid())}
	case Bare:
		a := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: one(1000, user), AmbientCaps: []uintptr{unix.CAP_SYS_RESOURCE}}
		a.GidMappings = a.UidMappings
		if root {
			a.Credential = &syscall.Credential{Uid: 1000, Gid: 1000, NoSetGroups: true}
		}
		return a
	}
	return &syscall.SysProcAttr{}
}
