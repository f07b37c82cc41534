package main

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// machineChecks are those that need no flag.
func machineChecks(ctx context.Context) []check {
	return []check{
		kernelCheck(), namespaceCheck(ctx),
		deviceCheck("AF_VSOCK", "/dev/vsock", "only virtual machines need it"),
		deviceCheck("vhost-vsock", "/dev/vhost-vsock", "only virtual machines need it"),
		kvmCheck(),
		deviceCheck("Nitro Enclaves", "/dev/nitro_enclaves", "this is no parent instance with enclaves enabled"),
	}
}

func kernelCheck() check {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return check{"Linux", false, false, err.Error()}
	}
	return check{"Linux", true, false, unix.ByteSliceToString(u.Release[:]) + " " + runtime.GOARCH}
}

// namespaceCheck starts this program in the namespaces that an enclave gets.
func namespaceCheck(ctx context.Context) check {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "version")
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS}
	how := "as root"
	if os.Geteuid() != 0 {
		how = "unprivileged, in a user namespace"
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	cmd.SysProcAttr = attr
	if err := cmd.Run(); err != nil {
		return check{"namespaces", false, false, "refused (" + how + "): enclaves could reach the network; look at user.max_user_namespaces and at security modules"}
	}
	return check{"namespaces", true, false, how}
}

func deviceCheck(name, path, missing string) check {
	if _, err := os.Stat(path); err != nil {
		return check{name, false, false, missing}
	}
	if unix.Access(path, unix.R_OK|unix.W_OK) != nil {
		return check{name, false, false, path + " is there, but not for this user"}
	}
	return check{name, true, false, path}
}

// kvmGetAPIVersion and the answer are of linux/kvm.h.
const (
	kvmGetAPIVersion = 0xAE00
	kvmAPIVersion    = 12
)

func kvmCheck() check {
	c := deviceCheck("KVM", "/dev/kvm", "virtual machines would be emulated")
	if !c.OK {
		return c
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return check{"KVM", false, false, err.Error()}
	}
	defer f.Close()
	version, err := unix.IoctlRetInt(int(f.Fd()), kvmGetAPIVersion)
	if err != nil || version != kvmAPIVersion {
		return check{"KVM", false, false, "/dev/kvm does not answer as KVM"}
	}
	c.Detail += "; nested hosts can still refuse to run a guest"
	return c
}
