package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// deviceNodes are the devices of a jail, by their minor number below memory's major 1. A node is a file: who locks or
// watches one that others have as well can tell them something by it.
var deviceNodes = map[string]uint32{"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}

// What is mounted in a sandbox's folder.
const devicesFolder, cgroupFolder = "devices", "cgroup"

// devices is where the device nodes of jails lie.
func (s *Sandbox) devices() string { return filepath.Join(s.dir, devicesFolder) }

// mountDevices makes a file system that may hold device nodes, and tries one. It needs the machine's root.
func (s *Sandbox) mountDevices() error {
	if err := os.Mkdir(s.devices(), 0o711); err != nil {
		return err
	}
	if err := unix.Mount("cape", s.devices(), "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=0711,size=4m"); err != nil {
		return fmt.Errorf("mounting a place for device nodes: %w", err)
	}
	dir, err := makeDevices(s.devices())
	if err == nil {
		var f *os.File
		if f, err = os.Open(filepath.Join(dir, "null")); err == nil {
			err = f.Close()
		}
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// unmount undoes the mounts of a sandbox whose folder dir is.
func unmount(dir string) {
	for _, name := range []string{devicesFolder, cgroupFolder} {
		_ = unix.Unmount(filepath.Join(dir, name), unix.MNT_DETACH) // fails where nothing was mounted
	}
}

// makeDevices makes a folder of device nodes below dir.
func makeDevices(dir string) (string, error) {
	own, err := os.MkdirTemp(dir, "")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(own, 0o711); err != nil {
		return own, err
	}
	for name, minor := range deviceNodes {
		path := filepath.Join(own, name)
		if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			return own, fmt.Errorf("making device node %s: %w", name, err)
		}
		if err := os.Chmod(path, 0o666); err != nil {
			return own, err
		}
	}
	return own, nil
}
