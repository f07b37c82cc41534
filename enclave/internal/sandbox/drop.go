package sandbox

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Limits that no function has a reason to change.
const (
	openFiles    = 1024
	lockedMemory = 64 << 10
	// ownThreads is room for the threads of the jail's first process, which count
	// as processes too.
	ownThreads = 24
)

// setLimits sets the limits that the program inherits.
func setLimits(o *order) error {
	limits := []struct {
		resource int
		value    uint64
	}{
		{unix.RLIMIT_CORE, 0},
		{unix.RLIMIT_NOFILE, openFiles},
		{unix.RLIMIT_MEMLOCK, lockedMemory},
		{unix.RLIMIT_MSGQUEUE, 0},
		{unix.RLIMIT_NICE, 0},
		{unix.RLIMIT_RTPRIO, 0},
	}
	add := func(resource int, value uint64) {
		if value != 0 {
			limits = append(limits, struct {
				resource int
				value    uint64
			}{resource, value})
		}
	}
	add(unix.RLIMIT_FSIZE, o.Limits.Scratch)
	// A process that asks for too much is told so (MemoryError in Python) before
	// the kernel has to end it.
	add(unix.RLIMIT_DATA, o.Limits.Memory)
	switch {
	case o.Limits.Procs == 0:
	case o.Switch:
		add(unix.RLIMIT_NPROC, o.Limits.Procs)
	case o.UserNS: // counted per user namespace, where the first process has the same user
		add(unix.RLIMIT_NPROC, o.Limits.Procs+ownThreads)
	}
	for _, l := range limits {
		var now syscall.Rlimit
		if err := syscall.Getrlimit(l.resource, &now); err != nil {
			return fmt.Errorf("reading limit %d: %w", l.resource, err)
		}
		v := min(l.value, now.Max)
		if err := syscall.Setrlimit(l.resource, &syscall.Rlimit{Cur: v, Max: v}); err != nil {
			return fmt.Errorf("setting limit %d: %w", l.resource, err)
		}
	}
	return nil
}

// dropForChild takes from this thread what the program must never have. The
// capabilities in force stay until the program was started: they switch its user,
// and executing a program as that user leaves it none.
func dropForChild(o *order) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("setting no_new_privs: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clearing ambient capabilities: %w", err)
	}
	err := dropBounding()
	if errors.Is(err, unix.EPERM) && !o.Namespaces {
		return nil // who may not do this has, as a rule, nothing to drop; Layers tells of the exception
	}
	return err
}

// dropBounding makes sure that no program, whatever its file or user, gets a
// capability again.
func dropBounding() error {
	const noRoot = 1<<0 | 1<<1 // SECBIT_NOROOT and its lock: user 0 is nobody special
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, noRoot, 0, 0, 0); err != nil {
		return fmt.Errorf("setting securebits: %w", err)
	}
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) && c > unix.CAP_CHOWN {
			return nil // past the last one this kernel knows
		}
		if err != nil {
			return fmt.Errorf("dropping capability %d from the bounding set: %w", c, err)
		}
	}
}

// dropOwn takes everything from the first process itself, which from here on
// only waits. Its memory holds nothing, and nobody inside may look.
func dropOwn(o *order) error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("making the first process undumpable: %w", err)
	}
	if !o.Namespaces {
		return nil // ending what is left may take the right to signal other users
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&none[0])), 0)
	if errno == syscall.ENOTSUP { // a binary with cgo: this thread alone
		return unix.Capset(&hdr, &none[0])
	}
	if errno != 0 {
		return fmt.Errorf("dropping capabilities: %w", errno)
	}
	return nil
}
