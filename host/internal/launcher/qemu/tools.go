package qemu

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ErrMissing: the machine lacks what a virtual machine needs.
var ErrMissing = errors.New("this machine cannot run enclaves in QEMU yet")

// Devices of the kernel's.
const (
	kvmDevice   = "/dev/kvm"
	vhostDevice = "/dev/vhost-vsock"
)

// tools are the programs that a launch starts.
type tools struct {
	qemu string
	// vsock plays the vsock device; empty: the host's kernel does.
	vsock string
}

// needs are the programs by name, each with what installs it on Debian.
var needs = map[string]string{
	"qemu-system-x86_64": "apt-get install qemu-system-x86",
	"vhost-device-vsock": "make vm-tools, or cargo install vhost-device-vsock --version 0.3.0",
}

// findTools looks in PATH and then in dir. What is missing it names in one line.
func findTools(dir string) (tools, error) {
	var missing []string
	find := func(name string) string {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil && dir != "" {
			return path
		}
		missing = append(missing, fmt.Sprintf("%s is missing (%s)", name, needs[name]))
		return ""
	}
	t := tools{qemu: find("qemu-system-x86_64")}
	if !usable(vhostDevice) {
		t.vsock = find("vhost-device-vsock")
	}
	if len(missing) > 0 {
		return t, fmt.Errorf("%w: %s", ErrMissing, strings.Join(missing, "; "))
	}
	return t, nil
}

// usable tells whether this process may use a device.
func usable(device string) bool {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return false
	}
	return f.Close() == nil
}
