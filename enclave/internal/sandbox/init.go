package sandbox

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// initArg is the argument that makes this program a jail's first process.
const initArg = "cape-jail-init"

// Descriptors of the first process.
const (
	controlFD = 3 // the order comes here; when it ends, so does the jail
	reportFD  = 4
	stdoutFD  = 5
	stderrFD  = 6
	filesFD   = 7 // the socket if there is one, then the program's own
)

// MaybeInit must be the first call of main, and of TestMain, in every program
// that uses this package: a jail's first process is the same program, started
// again. In that process it never returns.
func MaybeInit() {
	if len(os.Args) == 2 && os.Args[1] == initArg {
		os.Exit(initMain())
	}
}

// initMain is the first process of a jail. It is trusted: it runs no byte of a
// function. It builds the jail, starts the program without privileges, collects
// dead processes, and says how the program ended. When it ends, the kernel ends
// the rest.
func initMain() int {
	// What is taken from a thread is taken from what it starts; Go must not move
	// this work to a thread that still has it.
	runtime.LockOSThread()
	control, out := os.NewFile(controlFD, "control"), os.NewFile(reportFD, "report")
	if control == nil || out == nil {
		return 2
	}
	var o order
	if err := readMessage(control, &o); err != nil {
		return 2
	}
	var r report
	pid, err := begin(&o, &r)
	if err != nil {
		r.Error = err.Error()
		writeMessage(out, &r)
		return 1
	}
	r.Ready = true
	if writeMessage(out, &r) != nil || o.Probe {
		return 0
	}
	go func() {
		io.Copy(io.Discard, control) // ends when the runtime closes it, or dies
		if !o.Namespaces {
			killChildren()
		}
		os.Exit(1)
	}()
	status, err := reap(pid)
	if err != nil {
		return 1
	}
	if !o.Namespaces {
		killChildren()
	}
	end := report{Ended: true, Code: status.ExitStatus()}
	if status.Signaled() {
		end.Signal = int(status.Signal())
	}
	writeMessage(out, &end)
	return 0
}

// begin builds the jail and starts the program.
func begin(o *order, r *report) (int, error) {
	last := filesFD + o.Files
	if o.Socket {
		last++
	}
	// Whatever the runtime was started with ends here, too.
	if err := unix.CloseRange(controlFD, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return 0, fmt.Errorf("closing descriptors: %w", err)
	}
	// The program may be ended for want of memory before anything else is.
	os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
	if err := prepare(o, r); err != nil {
		return 0, err
	}
	if err := setLimits(o); err != nil {
		return 0, err
	}
	if err := dropForChild(o); err != nil {
		return 0, err
	}
	if o.Probe {
		return 0, nil
	}
	pid, err := startProgram(o)
	if err != nil {
		return 0, err
	}
	for fd := stdoutFD; fd < last; fd++ {
		unix.Close(fd)
	}
	return pid, dropOwn(o)
}

func prepare(o *order, r *report) error {
	if !o.Namespaces {
		return preparePlain(o, r)
	}
	if err := unix.Sethostname([]byte("cape")); err != nil {
		return fmt.Errorf("naming the host: %w", err)
	}
	if o.UserNS {
		// A user namespace of its own would give the program capabilities over new
		// namespaces, and with them much more of the kernel to attack.
		if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
			r.Nested = err.Error()
		}
	} else {
		r.Nested = "there is no user namespace around the jail to forbid them in"
	}
	return buildRoot(o, r)
}

// bindSocket binds the socket beside the working directory. By way of that
// directory: the path of a unix socket is short.
func bindSocket(o *order, _ *report) error {
	if !o.Socket {
		return nil
	}
	here, err := os.Open(".")
	if err != nil {
		return err
	}
	defer here.Close()
	dir := filepath.Dir(workDir(o))
	if o.Namespaces {
		dir = dir[1:]
	}
	if err := os.Chdir(dir); err != nil {
		return err
	}
	err = unix.Bind(filesFD, &unix.SockaddrUnix{Name: "rpc.sock"})
	if err == nil {
		err = errors.Join(os.Chmod("rpc.sock", 0o666), unix.Listen(filesFD, 16))
	}
	if err != nil {
		return fmt.Errorf("binding rpc.sock: %w", err)
	}
	return here.Chdir()
}

func startProgram(o *order) (int, error) {
	files := []uintptr{0, stdoutFD, stderrFD}
	first := filesFD
	if o.Socket {
		first++
	}
	for i := range o.Files {
		files = append(files, uintptr(first+i))
	}
	dir, tmp := workDir(o), "/tmp"
	if !o.Namespaces {
		tmp = filepath.Join(o.Root, "tmp")
	}
	attr := &syscall.ProcAttr{Dir: dir, Files: files, Sys: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
		Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + tmp, "TMPDIR=" + tmp, "LANG=C.UTF-8"}}
	if o.Switch {
		attr.Sys.Credential = &syscall.Credential{Uid: uint32(o.ID), Gid: uint32(o.ID), Groups: []uint32{}}
	}
	pid, err := syscall.ForkExec(o.Args[0], o.Args, attr)
	if err != nil {
		return 0, fmt.Errorf("starting %s: %w", o.Args[0], err)
	}
	return pid, nil
}

// reap collects dead processes until the program itself is dead.
func reap(pid int) (syscall.WaitStatus, error) {
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, err
		case got == pid && (status.Exited() || status.Signaled()):
			return status, nil
		}
	}
}
