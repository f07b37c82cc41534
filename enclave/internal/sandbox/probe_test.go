package sandbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sort"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// probePrefix starts the first argument of this binary inside a jail.
const probePrefix = "cape-test-probe:"

// facts are what a program finds out about its jail.
type facts struct {
	UID, GID, PID int
	Groups        []int
	Dir           string
	Env           []string
	Hostname      string
	FDs           []int
	Root          []string
	Interfaces    []string // that are up
	Caps          [4]uint32
	Bounding      int
	NoNewPrivs    int
	Limits        map[string]uint64
	Done          []string // forbidden things that worked
	Content       string
}

func probe(name string, args []string) {
	switch name {
	case "look":
		json.NewEncoder(os.Stdout).Encode(gather())
	case "change":
		json.NewEncoder(os.Stdout).Encode(change())
	case "sleep":
		time.Sleep(time.Hour)
	case "linger":
		linger(args)
	case "exit":
		os.Exit(42)
	case "abort":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "orphan":
		orphan()
	case "fill":
		fill()
	case "memory":
		touch()
	case "processes":
		multiply()
	case "connect":
		connect()
	case "host":
		host(args[0])
	}
}

func gather() facts {
	f := facts{UID: os.Getuid(), GID: os.Getgid(), PID: os.Getpid(), Env: os.Environ(), Limits: map[string]uint64{}}
	f.Groups, _ = os.Getgroups()
	f.Dir, _ = os.Getwd()
	f.Hostname, _ = os.Hostname()
	for fd := range 256 { // Go's own poller has descriptors too: those are closed on exec
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			f.FDs = append(f.FDs, fd)
		}
	}
	entries, _ := os.ReadDir("/")
	for _, e := range entries {
		f.Root = append(f.Root, e.Name())
	}
	all, _ := net.Interfaces()
	for _, i := range all {
		if i.Flags&net.FlagUp != 0 {
			f.Interfaces = append(f.Interfaces, i.Name)
		}
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	unix.Capget(&hdr, &data[0])
	f.Caps = [4]uint32{data[0].Effective, data[0].Permitted, data[1].Effective, data[1].Permitted}
	for c := range 64 {
		if on, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err == nil {
			f.Bounding += on
		}
	}
	f.NoNewPrivs, _ = unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	for name, r := range map[string]int{"core": unix.RLIMIT_CORE, "files": unix.RLIMIT_NOFILE, "data": unix.RLIMIT_DATA, "procs": unix.RLIMIT_NPROC, "size": unix.RLIMIT_FSIZE} {
		var l unix.Rlimit
		unix.Getrlimit(r, &l)
		f.Limits[name] = l.Max
	}
	f.Done = forbidden()
	return f
}

// forbidden tries what no function may do.
func forbidden() []string {
	var done []string
	for name, try := range map[string]func() error{
		"mount":        func() error { return unix.Mount("none", "/tmp", "tmpfs", 0, "") },
		"umount":       func() error { return unix.Unmount("/tmp", unix.MNT_DETACH) },
		"pivot_root":   func() error { return unix.PivotRoot("/", "/tmp") },
		"chroot":       func() error { return unix.Chroot("/tmp") },
		"setuid":       func() error { return syscall.Setuid(0) },
		"sethostname":  func() error { return unix.Sethostname([]byte("mine")) },
		"mknod":        func() error { return unix.Mknod("/tmp/null", unix.S_IFCHR|0o666, 1<<8|3) },
		"user ns":      newUserNamespace,
		"net ns":       func() error { return unix.Unshare(unix.CLONE_NEWNET) },
		"raw socket":   func() error { _, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP); return err },
		"write root":   func() error { return os.WriteFile("/x", nil, 0o600) },
		"write usr":    func() error { return os.WriteFile("/usr/x", nil, 0o600) },
		"write etc":    func() error { return os.WriteFile("/etc/passwd", nil, 0o600) },
		"write beside": func() error { return os.WriteFile("../x", nil, 0o600) },
		"write dev":    func() error { return os.WriteFile("/dev/x", nil, 0o600) },
		"network":      func() error { c, err := net.DialTimeout("udp", "192.0.2.1:9", time.Second); closeConn(c); return err },
		"first process": func() error {
			if os.Getppid() == 1 {
				return unix.PtraceAttach(1)
			}
			return unix.EPERM
		},
		"raise a limit": func() error {
			return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: openFiles * 2, Max: openFiles * 2})
		},
	} {
		if try() == nil {
			done = append(done, name)
		}
	}
	for _, path := range []string{"/proc/self", "/sys/kernel", "/root", "/home", "/dev/nsm", "/dev/vsock", "/dev/mem", "/dev/kvm", "/dev/tty", "/var", "/run", "/work", "/boot", "/../var", "/../root"} {
		if _, err := os.Stat(path); err == nil {
			done = append(done, "see "+path)
		}
	}
	sort.Strings(done)
	return done
}

func newUserNamespace() error {
	cmd := exec.Command("/bin/true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER}
	return cmd.Run()
}

func closeConn(c net.Conn) {
	if c != nil {
		c.Close()
	}
}

// change writes wherever a function may write, and tells what was there.
func change() facts {
	f := facts{}
	f.Dir, _ = os.Getwd()
	a, err1 := os.ReadFile("app.py")
	b, err2 := os.ReadFile("sub/data")
	f.Content = fmt.Sprintf("%s %s %v %v", a, b, err1, err2)
	for _, path := range []string{"app.py", "sub/data", "sub/new", "new", "/tmp/new", "/dev/shm/new"} {
		if err := os.WriteFile(path, []byte("changed"), 0o600); err != nil {
			f.Done = append(f.Done, err.Error())
		}
	}
	if err := os.Remove("sub/.hidden"); err != nil {
		f.Done = append(f.Done, err.Error())
	}
	if err := os.Rename("new", "sub/renamed"); err != nil {
		f.Done = append(f.Done, err.Error())
	}
	return f
}

// linger leaves a process that nobody waits for and that ignores signals.
func linger(args []string) {
	if len(args) == 2 {
		signal.Ignore(syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT)
		time.Sleep(time.Hour)
	}
	cmd := exec.Command(os.Args[0], probePrefix+"linger", args[0], "child")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("started")
}

// orphan leaves children to the first process, which must collect them.
func orphan() {
	var pids []int
	for range 20 {
		var pid int
		out, err := exec.Command("/bin/sh", "-c", "/bin/true >&2 & echo $!").Output()
		if _, scan := fmt.Sscan(string(out), &pid); err != nil || scan != nil {
			fmt.Println(err, scan)
		}
		pids = append(pids, pid)
	}
	time.Sleep(200 * time.Millisecond)
	for _, pid := range pids {
		if syscall.Kill(pid, 0) == nil {
			fmt.Println("left:", pid)
		}
	}
	fmt.Println("done")
}

func fill() {
	for i := range 100 {
		if err := os.WriteFile(fmt.Sprintf("%s/f%d", []string{"/tmp", ".", "/dev/shm"}[i%3], i), bytes.Repeat([]byte("x"), 1<<20), 0o600); err != nil {
			fmt.Println(i, err)
			return
		}
	}
	fmt.Println("all")
}

// touch uses shared memory, which only a cgroup counts.
func touch() {
	b, err := unix.Mmap(-1, 0, 1<<30, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		fmt.Println(err)
		return
	}
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	fmt.Println("all")
}

func multiply() {
	for i := range 200 {
		if err := exec.Command("/bin/sleep", "1000").Start(); err != nil {
			fmt.Println(i, err)
			return
		}
	}
	fmt.Println("all")
}

func connect() {
	c, err := net.Dial("unix", filepath.Join("..", "rpc.sock"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	fmt.Fprint(c, "hello")
	c.(*net.UnixConn).CloseWrite()
	b := make([]byte, 16)
	n, _ := c.Read(b)
	fmt.Print(string(b[:n]))
}

// host is a runtime that is about to be killed.
func host(dir string) {
	s, err := New(Config{Dir: dir, AllowDegraded: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	exe := os.Args[0]
	j, err := s.Start(contextForHost(), Spec{Args: []string{exe, probePrefix + "linger", dir, "child"}, ReadOnly: []string{filepath.Dir(exe)}, Name: "fn"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("ready", s.groups.prefix)
	<-j.Done()
}
