// Package room runs programs of unpacked packages in a tree of their own: paths in it are always the same, the machine's
// own compiler and libraries are not in it, and there is no network. It keeps builds alike; it is no jail.
package room

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNamespaces: this machine does not let us have what a room is made of.
var ErrNamespaces = errors.New("a tree for the build needs namespaces, which this machine refuses: run as root, " +
	"or allow unprivileged user namespaces (in a container: --privileged)")

// marker is the first argument of the process that becomes the room's first.
const marker = "cape-room-inside"

// Command is a program to run.
type Command struct {
	Root   string   // the tree, an absolute path
	Args   []string // of the program; Args[0] is its absolute path in the tree
	Env    []string // all of it
	Output io.Writer
}

// Run runs a command and waits. The command's processes end with it. The main of the calling program must have called
// MaybeInside. Errors: ErrNamespaces, *exec.ExitError.
func Run(ctx context.Context, c Command) error {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append([]string{marker, c.Root}, c.Args...)...)
	cmd.Env = append([]string{}, c.Env...)
	cmd.Stdout, cmd.Stderr = c.Output, c.Output
	cmd.Dir = "/"
	attr := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
		Pdeathsig:  unix.SIGKILL,
	}
	if uid := os.Geteuid(); uid != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	cmd.SysProcAttr = attr
	err := cmd.Run()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("%w (%w)", ErrNamespaces, err)
	}
	return err
}

// MaybeInside turns this process into a room's first one when Run started it, and never returns then.
func MaybeInside() {
	if len(os.Args) < 4 || os.Args[1] != marker {
		return
	}
	err := inside(os.Args[2], os.Args[3:])
	fmt.Fprintln(os.Stderr, "entering the tree:", err)
	os.Exit(125)
}

func inside(root string, args []string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("leaving the machine's mounts: %w", err)
	}
	for _, name := range []string{"dev/null", "dev/zero", "dev/urandom"} {
		target := filepath.Join(root, name)
		f, err := os.OpenFile(target, os.O_CREATE|os.O_WRONLY, 0o666)
		if err != nil {
			return err
		}
		f.Close()
		if err := unix.Mount("/"+name, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("showing /%s: %w", name, err)
		}
	}
	if err := unix.Mount("proc", filepath.Join(root, "proc"), "proc", 0, ""); err != nil {
		return fmt.Errorf("mounting /proc: %w", err)
	}
	// Hashes of addresses decide the order of some sets in Python: the same addresses everywhere.
	if _, _, errno := unix.RawSyscall(unix.SYS_PERSONALITY, 0x0040000 /* ADDR_NO_RANDOMIZE */, 0, 0); errno != 0 {
		return fmt.Errorf("fixing addresses: %w", errno)
	}
	unix.Umask(0o022)
	if err := errors.Join(unix.Sethostname([]byte("cape")), unix.Chroot(root), unix.Chdir("/")); err != nil {
		return err
	}
	return unix.Exec(args[0], args, os.Environ())
}
