package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// process is a process that is not this one's child, held by a descriptor: its number cannot come to
// mean another one.
type process struct {
	pid  int
	file *os.File
	raw  syscall.RawConn
}

// newProcess takes over a process's descriptor.
func newProcess(fd int) (*process, error) {
	if fd < 0 {
		return nil, errors.New("no descriptor of a process came along")
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that waiting for it needs no thread
		unix.Close(fd)
		return nil, err
	}
	p := &process{file: os.NewFile(uintptr(fd), "process")}
	info, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err == nil {
		p.raw, err = p.file.SyscallConn()
	}
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	for line := range strings.Lines(string(info)) {
		if text, ok := strings.CutPrefix(line, "Pid:"); ok {
			p.pid, err = strconv.Atoi(strings.TrimSpace(text))
		}
	}
	if err != nil || p.pid <= 0 {
		return nil, errors.Join(fmt.Errorf("a process that is not there (%d)", p.pid), err, p.close())
	}
	return p, nil
}

func (p *process) kill() {
	p.raw.Control(func(fd uintptr) { unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0) })
}

// wait returns when the process is gone, and for a keeper all in its namespaces.
func (p *process) wait() {
	p.raw.Read(over)
}

// gone says whether the process has ended.
func (p *process) gone() (yes bool) {
	err := p.raw.Control(func(fd uintptr) { yes = over(fd) })
	return yes || err != nil
}

// over says whether the process that a descriptor holds has ended.
func over(fd uintptr) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
}

func (p *process) close() error { return p.file.Close() }

// path is a file of the process's in /proc.
func (p *process) path(name string) string { return "/proc/" + strconv.Itoa(p.pid) + "/" + name }

// undumpable makes sure that the kernel lets nobody with the process's own user look into it: its files in /proc are
// root's then. user is the process's own.
func (p *process) undumpable(user uint64) error {
	var st unix.Stat_t
	if err := unix.Stat(p.path("environ"), &st); err != nil {
		return err
	}
	if uint64(st.Uid) != user {
		return nil
	}
	if users, err := os.ReadFile("/proc/self/uid_map"); user == 0 && err == nil && strings.Fields(string(users))[1] == "0" {
		return nil // root of the machine without another user to give away: it may look into everything
	}
	return differs("it can be looked into by its own user")
}
