package sandbox

import (
	"bufio"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// innerID is the user and group that a program has inside a user namespace.
const innerID = 1000

// Identifiers for jails are taken from a range that distributions leave free,
// or, where only a few are mapped, from the upper half of those.
const (
	preferredBase = 1_900_000_000
	idRange       = 1 << 24
	nobody        = 65534
)

// extent is a line of /proc/self/uid_map: ids [inside, inside+size) exist here.
type extent struct{ inside, size uint64 }

func readExtents(path string) ([]extent, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []extent
	for s := bufio.NewScanner(f); s.Scan(); {
		var e extent
		var outside uint64
		if _, err := fmt.Sscan(s.Text(), &e.inside, &outside, &e.size); err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
		all = append(all, e)
	}
	return all, nil
}

// pickRange chooses the ids that jails get. ok is false when there are none to
// spare, as in the user namespace of an ordinary user.
func pickRange(all []extent) (base, size uint64, ok bool) {
	for _, e := range all {
		if e.inside <= preferredBase && preferredBase+idRange <= e.inside+e.size {
			return preferredBase, idRange, true
		}
	}
	for _, e := range all {
		if half := e.size / 2; half >= 256 && half > size {
			base, size, ok = e.inside+half, half, true
		}
	}
	return base, size, ok
}

// users hands out ids, each to one jail at a time. Its zero value has none.
type users struct {
	mu         sync.Mutex
	base, size uint64
	next       uint64
	taken      map[uint64]bool
}

// newUsers finds out which ids this process may give away. start spreads the
// jails of several runtimes over the range.
func newUsers(start uint64) (*users, string) {
	if os.Geteuid() != 0 {
		return &users{}, "the runtime is not root: every jail has the runtime's own user"
	}
	if !hasCaps(unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_CHOWN) {
		return &users{}, "the runtime may not change users (CAP_SETUID, CAP_SETGID, CAP_CHOWN)"
	}
	// The map of groups is like this one wherever one program wrote both; an id that only one of
	// them has makes the first jail fail, which New notices.
	all, err := readExtents("/proc/self/uid_map")
	if err != nil {
		return &users{}, err.Error()
	}
	base, size, ok := pickRange(all)
	if !ok {
		return &users{}, "no users to spare in the runtime's user namespace"
	}
	return &users{base: base, size: size, next: start % size, taken: map[uint64]bool{}}, ""
}

// own says whether every jail gets a user of its own.
func (u *users) own() bool { return u.size > 0 }

// take returns an id that no living jail has.
func (u *users) take() (uint64, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for range u.size {
		id := u.base + u.next
		u.next = (u.next + 1) % u.size
		if id != nobody && !u.taken[id] {
			u.taken[id] = true
			return id, nil
		}
	}
	return 0, fmt.Errorf("%w: no free user id", ErrSetup)
}

func (u *users) giveBack(id uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.taken, id)
}

// attributes returns how the fork server is cloned: with namespaces, it is root in a user namespace of its own,
// with the users that jails may get.
func (s *Sandbox) attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setsid: true}
	if s.plain {
		return a
	}
	a.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS
	if s.users.own() {
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1},
			{ContainerID: int(s.users.base), HostID: int(s.users.base), Size: int(s.users.size)}}
		a.GidMappings = a.UidMappings
		a.GidMappingsEnableSetgroups = true
		return a
	}
	a.UidMappings = []syscall.SysProcIDMap{{ContainerID: innerID, HostID: os.Getuid(), Size: 1}}
	a.GidMappings = []syscall.SysProcIDMap{{ContainerID: innerID, HostID: os.Getgid(), Size: 1}}
	// Executing a program as a user other than 0 drops capabilities, and building jails needs these.
	a.AmbientCaps = []uintptr{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER, unix.CAP_FSETID,
		unix.CAP_SETPCAP, unix.CAP_SYS_ADMIN, unix.CAP_SYS_CHROOT, unix.CAP_SYS_RESOURCE, unix.CAP_MKNOD}
	return a
}

// idMap is the text of a jail's uid_map: the keeper keeps the server's user, the worker gets one of its own where there are any.
func (s *Sandbox) idMap(id uint64) string {
	if s.users.own() {
		return fmt.Sprintf("0 0 1\n%d %d 1\n", innerID, id)
	}
	return fmt.Sprintf("%d %d 1\n", innerID, innerID)
}

// hasCaps says whether this process has all of these capabilities in force.
func hasCaps(caps ...int) bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&hdr, &data[0]) != nil {
		return false
	}
	for _, c := range caps {
		if data[c/32].Effective&(1<<(c%32)) == 0 {
			return false
		}
	}
	return true
}
