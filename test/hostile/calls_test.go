package hostile

import (
	"runtime"
	"testing"
)

// Sets of refusals.
var (
	// fatal: the filter ends the process.
	fatal = []string{failed}
	// absent: the call does not exist as far as the function can tell.
	absent = []string{"ENOSYS"}
	// denied: the call exists and is refused.
	denied = []string{"EPERM", "EACCES"}
)

// systemCalls makes every call that the jail must refuse.
func (a *arena) systemCalls(t *testing.T) {
	const (
		escape    = "it changes or looks into another tree of files"
		others    = "it reaches into another process"
		kernel    = "it is a large part of the kernel, with a history of holes, that no function needs"
		machine   = "it changes the machine for everybody"
		privilege = "it would make the function somebody else"
		shared    = "what it makes is seen by other connections"
		foreign   = "other forms of system calls pass the filter by"
	)
	cases := []attack{}
	add := func(why string, want []string, names ...string) {
		for _, n := range names {
			cases = append(cases, attack{name: "call:" + n, why: why, want: want})
		}
	}
	add(escape, fatal, "mount", "umount2", "pivot_root", "chroot", "open_tree", "fsopen", "fspick", "fsconfig", "fsmount", "move_mount", "mount_setattr",
		"name_to_handle_at", "open_by_handle_at", "setns", "mknod")
	for _, ns := range []string{"mnt", "cgroup", "uts", "ipc", "user", "pid", "net", "time"} {
		add("a namespace of its own has capabilities in it", fatal, "unshare/"+ns)
		if ns != "time" { // clone has no flag for it: 0x80 is a part of the signal's number
			add("a namespace of its own has capabilities in it", fatal, "clone/"+ns)
		}
	}
	add(others, fatal, "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "pidfd_getfd", "kcmp", "move_pages", "migrate_pages")
	add(kernel, fatal, "bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key", "personality", "memfd_secret", "fanotify_init", "vhangup")
	add("its arguments lie in memory, where a filter cannot see them", absent, "io_uring_setup", "clone3")
	add(machine, fatal, "kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "reboot", "swapon", "acct", "quotactl", "syslog",
		"settimeofday", "clock_settime", "sethostname", "setdomainname")
	add(privilege, denied, "setuid", "setgid", "setgroups", "capset", "ambient", "undo-seccomp", "seccomp")
	add("it would open the worker's memory to others of its user", denied, "dumpable")
	add("orphans belong to the keeper", denied, "subreaper")
	add("limits are the runtime's", denied, "parent-limits")
	add("it types into somebody's terminal", []string{"ENOTTY", "EPERM"}, "terminal")
	add(shared, absent, "shmget", "msgget", "semget", "mq_open")
	add("their number is bounded for all jails together", absent, "inotify_init1")
	add("what others read can be told from what is in the cache", absent, "cachestat")
	if runtime.GOARCH == "amd64" {
		add(machine, fatal, "iopl", "ioperm", "modify_ldt", "lookup_dcookie")
		add(foreign, fatal, "int80", "x32")
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { a.try(t, c) })
	}
}

// sockets opens sockets of every family that leads out of the jail.
func (a *arena) sockets(t *testing.T) {
	for family, why := range map[string]string{
		"inet": "a function has no network", "inet6": "a function has no network", "raw": "packets of its own making",
		"netlink": "it configures the network, and much else of the kernel", "packet": "it reads everybody's packets",
		"alg": "the kernel's cryptography has a history of holes", "vsock": "the host listens there", "bluetooth": "a large part of the kernel",
		"can": "a large part of the kernel", "xdp": "a large part of the kernel", "smc": "a large part of the kernel", "tipc": "a large part of the kernel",
	} {
		for _, call := range []string{"socket", "socketpair"} {
			t.Run(call+"/"+family, func(t *testing.T) {
				a.try(t, attack{name: "call:" + call + "/" + family, why: why, want: []string{"EAFNOSUPPORT"}})
			})
		}
	}
	a.try(t, attack{name: "call:tcp", why: "a function has no network", want: []string{"EAFNOSUPPORT"}})
}
