package sandbox

import (
	"fmt"
	"runtime"
	"slices"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Verdicts of the filter.
const (
	allow   = unix.SECCOMP_RET_ALLOW
	kill    = unix.SECCOMP_RET_KILL_PROCESS
	refuse  = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	unknown = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
)

// Offsets in seccomp_data, on little-endian processors.
const (
	atNumber = 0
	atArch   = 4
	atArgs   = 16
)

// x32Bit marks calls of another form of the same processor's.
const x32Bit = 0x40000000

// Namespace flags of clone, CLONE_NEWTIME among them.
const cloneNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWTIME

// Of asm-generic/ioctls.h.
const (
	fionbio  = 0x5421
	fionclex = 0x5450
	fioclex  = 0x5451
)

// rule decides about a call by one argument: it is allowed when all 64 bits of the argument are one of values or,
// with a mask, when none of the mask's bits are set; otherwise denied.
type rule struct {
	name   string
	arg    uint32
	values []uint32
	mask   uint32
	zero   uint32 // a further value, allowed when the next argument is 0
	denied uint32
}

// argumentRules limit calls that every program needs in some form.
var argumentRules = []rule{
	{name: "clone", arg: 0, mask: cloneNamespaces, denied: kill},
	{name: "socket", arg: 0, values: []uint32{unix.AF_UNIX}, denied: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)},
	{name: "socketpair", arg: 0, values: []uint32{unix.AF_UNIX}, denied: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)},
	{name: "prlimit64", arg: 0, values: []uint32{0}, denied: refuse},
	{name: "personality", arg: 0, values: []uint32{0, 0xffffffff}, denied: kill},
	{name: "ioctl", arg: 1, values: []uint32{unix.TCGETS, unix.TIOCGWINSZ, unix.TIOCINQ, fionbio, fioclex, fionclex},
		denied: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOTTY)},
	{name: "mknod", arg: 1, mask: unix.S_IFCHR | unix.S_IFDIR, denied: kill}, // what is left are fifos and files
	{name: "mknodat", arg: 2, mask: unix.S_IFCHR | unix.S_IFDIR, denied: kill},
	{name: "prctl", arg: 0, denied: refuse, zero: unix.PR_SET_DUMPABLE, values: []uint32{unix.PR_SET_NAME, unix.PR_GET_NAME, unix.PR_GET_DUMPABLE,
		unix.PR_SET_PDEATHSIG, unix.PR_GET_PDEATHSIG, unix.PR_CAPBSET_READ, unix.PR_SET_NO_NEW_PRIVS, unix.PR_GET_NO_NEW_PRIVS, unix.PR_GET_SECCOMP,
		unix.PR_SET_THP_DISABLE, unix.PR_GET_THP_DISABLE, unix.PR_SET_VMA, unix.PR_SET_TIMERSLACK}},
}

// allowed are calls without danger beyond what limits and namespaces bound. What a processor does not have is skipped.
var allowed = []string{
	"read", "write", "futex", "close", "fstat", "newfstatat", "lseek", "mmap", "munmap", "mprotect", "brk", "openat", "stat", "lstat", "rt_sigaction",
	"rt_sigprocmask", "rt_sigreturn", "poll", "ppoll", "epoll_wait", "epoll_pwait", "epoll_pwait2", "epoll_ctl", "epoll_create", "epoll_create1",
	"readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2", "access", "faccessat", "faccessat2", "open", "creat", "openat2",
	"close_range", "getdents", "getdents64", "getcwd", "chdir", "fchdir", "rename", "renameat", "renameat2", "mkdir", "mkdirat", "rmdir", "unlink",
	"unlinkat", "link", "linkat", "symlink", "symlinkat", "readlink", "readlinkat", "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown",
	"lchown", "fchownat", "umask", "truncate", "ftruncate", "fallocate", "fsync", "fdatasync", "sync_file_range", "flock", "fcntl", "dup", "dup2", "dup3",
	"pipe", "pipe2", "select", "pselect6", "statx", "statfs", "fstatfs", "utime", "utimes", "utimensat", "futimesat", "sendfile", "splice", "tee",
	"copy_file_range", "fadvise64", "readahead", "mremap", "msync", "mincore", "madvise", "mlock", "mlock2", "munlock", "mlockall", "munlockall",
	"memfd_create", "membarrier", "rseq", "mbind", "get_mempolicy", "set_mempolicy", "set_mempolicy_home_node", "pkey_alloc", "pkey_free",
	"pkey_mprotect", "map_shadow_stack", "nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday", "time", "times", "alarm",
	"getitimer", "setitimer", "timer_create", "timer_settime", "timer_gettime", "timer_getoverrun", "timer_delete", "timerfd_create",
	"timerfd_settime", "timerfd_gettime", "eventfd", "eventfd2", "signalfd", "signalfd4", "getpid", "getppid", "gettid", "getuid", "geteuid", "getgid", "getegid", "getgroups", "getresuid", "getresgid", "getpgrp", "getpgid", "setpgid",
	"getsid", "setsid", "set_tid_address", "set_robust_list", "get_robust_list", "futex_waitv", "futex_wake", "futex_wait", "futex_requeue", "fork", "vfork", "execve",
	"execveat", "exit", "exit_group", "wait4", "waitid", "kill", "tkill", "tgkill", "rt_sigpending", "rt_sigtimedwait", "rt_sigqueueinfo",
	"rt_tgsigqueueinfo", "rt_sigsuspend", "sigaltstack", "pause", "restart_syscall", "pidfd_open", "pidfd_send_signal", "sched_yield", "sched_getaffinity",
	"sched_setaffinity", "sched_getparam", "sched_getscheduler", "sched_get_priority_max", "sched_get_priority_min", "sched_rr_get_interval",
	"sched_getattr", "getcpu", "getpriority", "setpriority", "getrlimit", "setrlimit", "getrusage", "sysinfo", "uname", "arch_prctl", "getrandom",
	"connect", "bind", "listen", "accept", "accept4", "getsockname", "getpeername", "getsockopt", "setsockopt", "sendto", "recvfrom", "sendmsg",
	"recvmsg", "sendmmsg", "recvmmsg", "shutdown", "getxattr", "lgetxattr", "fgetxattr", "listxattr", "llistxattr", "flistxattr", "capget",
	"process_mrelease",
}

// dangerous are calls that no function makes by mistake: whoever tries is ended.
var dangerous = []string{
	"ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "process_madvise", "mount", "umount2", "pivot_root", "chroot", "unshare", "setns",
	"mount_setattr", "move_mount", "open_tree", "fsopen", "fsmount", "fsconfig", "fspick", "open_by_handle_at", "name_to_handle_at", "bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key", "init_module", "finit_module", "delete_module",
	"kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd", "syslog", "iopl", "ioperm", "modify_ldt", "sethostname",
	"setdomainname", "settimeofday", "clock_settime", "vhangup", "fanotify_init", "fanotify_mark", "lookup_dcookie",
	"migrate_pages", "move_pages", "memfd_secret",
}

// refused are calls that libraries try and can do without.
var refused = []string{
	"setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setfsuid", "setfsgid", "setgroups", "capset", "setxattr", "lsetxattr",
	"fsetxattr", "removexattr", "lremovexattr", "fremovexattr", "sched_setscheduler", "sched_setparam", "sched_setattr", "ioprio_set", "seccomp",
}

// owners are calls by which who owns a file changes it, wherever it lies: Landlock does not look at them. A jail that has not its own tree
// and user would reach everything of the runtime's user by them: there they do nothing, and say that they did.
var owners = []string{"chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown", "fchownat", "utime", "utimes", "utimensat", "futimesat"}

// filter returns the seccomp program of every worker; shared: it has the runtime's tree and user. Each rule ends in a verdict of its own, so that no later comparison
// sees an argument where it expects a number. io_uring and clone3, whose arguments a filter cannot see, are unknown calls: C libraries do without.
func filter(shared bool) ([]bpf.RawInstruction, error) {
	info, err := arch.GetInfo(runtime.GOARCH)
	if err != nil {
		return nil, fmt.Errorf("making the system call filter: %w", err)
	}
	program := []bpf.Instruction{
		bpf.LoadAbsolute{Off: atArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(info.ID), SkipTrue: 1},
		bpf.RetConstant{Val: kill},
		bpf.LoadAbsolute{Off: atNumber, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: x32Bit, SkipTrue: 1},
		bpf.RetConstant{Val: kill},
	}
	add := func(name string, body ...bpf.Instruction) {
		if number, ok := info.SyscallNames[name]; ok {
			program = append(program, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(number), SkipTrue: uint8(len(body))})
			program = append(program, body...)
		}
	}
	for _, name := range allowed {
		verdict := uint32(allow)
		if shared && slices.Contains(owners, name) {
			verdict = unix.SECCOMP_RET_ERRNO // of 0
		}
		add(name, bpf.RetConstant{Val: verdict})
	}
	for _, r := range argumentRules {
		add(r.name, r.body()...)
	}
	for _, name := range refused {
		add(name, bpf.RetConstant{Val: refuse})
	}
	for _, name := range dangerous {
		add(name, bpf.RetConstant{Val: kill})
	}
	return bpf.Assemble(append(program, bpf.RetConstant{Val: unknown}))
}

func (r rule) body() []bpf.Instruction {
	low := bpf.LoadAbsolute{Off: atArgs + 8*r.arg, Size: 4}
	if r.mask != 0 {
		return []bpf.Instruction{low, bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: r.mask, SkipFalse: 1}, bpf.RetConstant{Val: r.denied}, bpf.RetConstant{Val: allow}}
	}
	var body []bpf.Instruction
	if r.zero != 0 {
		body = []bpf.Instruction{low, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: r.zero, SkipTrue: 4}, bpf.LoadAbsolute{Off: low.Off + 8, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1}, bpf.RetConstant{Val: r.denied}, bpf.RetConstant{Val: allow}}
	}
	n := len(r.values)
	body = append(body,
		bpf.LoadAbsolute{Off: low.Off + 4, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: uint8(1 + n)},
		low,
	)
	for i, v := range r.values {
		body = append(body, bpf.JumpIf{Cond: bpf.JumpEqual, Val: v, SkipTrue: uint8(n - i)})
	}
	return append(body, bpf.RetConstant{Val: r.denied}, bpf.RetConstant{Val: allow})
}
