package machine

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// mount is one file system of the machine.
type mount struct {
	kind, target, options string
	flags                 uintptr
}

const hardened = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// mounts are made in this order. Scratch holds unpacked functions, whose shared objects are mapped.
func mounts() []mount {
	return []mount{
		{"proc", "/proc", "", hardened},
		{"sysfs", "/sys", "", hardened},
		{"cgroup2", "/sys/fs/cgroup", "", hardened},
		{"devtmpfs", "/dev", "mode=0755", unix.MS_NOSUID | unix.MS_NOEXEC},
		{"tmpfs", "/run", "mode=0755,size=16m", hardened},
		{"tmpfs", "/tmp", "mode=1777,size=64m", hardened},
		{"tmpfs", Scratch, "mode=0711,size=80%", unix.MS_NOSUID | unix.MS_NODEV},
	}
}

// mountAll leaves the initial ramdisk's mount, on which pivot_root works for nobody, for a
// read-only one of the same files, and mounts the rest on it.
func mountAll() error {
	const step = "/tmp"
	if err := unix.Mount("/", step, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("binding the root: %w", err)
	}
	if err := unix.Chdir(step); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("entering the root: %w", err)
	}
	for _, m := range mounts() {
		if err := unix.Mount(m.kind, m.target, m.kind, m.flags, m.options); err != nil {
			return fmt.Errorf("mounting %s: %w", m.target, err)
		}
	}
	shm := mount{"tmpfs", "/dev/shm", "mode=1777,size=64m", hardened}
	if err := os.Mkdir(shm.target, 0o755); err != nil {
		return fmt.Errorf("mounting %s: %w", shm.target, err)
	}
	if err := unix.Mount(shm.kind, shm.target, shm.kind, shm.flags, shm.options); err != nil {
		return fmt.Errorf("mounting %s: %w", shm.target, err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("making the root read-only: %w", err)
	}
	return nil
}
