package sandbox

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// judge runs the filter on one call.
func judge(t testing.TB, vm *bpf.VM, machine, number uint32, args ...uint64) uint32 {
	t.Helper()
	// The kernel compares in its own order of bytes, the interpreter in the network's.
	data := binary.BigEndian.AppendUint32(nil, number)
	data = binary.BigEndian.AppendUint32(data, machine)
	data = append(data, make([]byte, 8)...)
	for i := range 6 {
		v := uint64(0)
		if i < len(args) {
			v = args[i]
		}
		data = binary.BigEndian.AppendUint32(data, uint32(v))
		data = binary.BigEndian.AppendUint32(data, uint32(v>>32))
	}
	verdict, err := vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(verdict)
}

func newVM(t testing.TB) (*bpf.VM, *arch.Info) { return vmOf(t, false) }

func vmOf(t testing.TB, shared bool) (*bpf.VM, *arch.Info) {
	t.Helper()
	raw, err := filter(shared)
	if err != nil {
		t.Fatal(err)
	}
	program, ok := bpf.Disassemble(raw)
	if !ok || len(raw) > unix.BPF_MAXINSNS {
		t.Fatal("the filter is not a program")
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	info, err := arch.GetInfo(runtime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	return vm, info
}

// TestFilterOfSharedTrees: what an owner may do to any file does nothing, and the rest is as it is elsewhere.
func TestFilterOfSharedTrees(t *testing.T) {
	usual, info := newVM(t)
	shared, _ := vmOf(t, true)
	for name, number := range info.SyscallNames {
		want := judge(t, usual, uint32(info.ID), uint32(number))
		if slices.Contains(owners, name) {
			want = unix.SECCOMP_RET_ERRNO
		}
		if got := judge(t, shared, uint32(info.ID), uint32(number)); got != want {
			t.Errorf("%s: %#x, not %#x", name, got, want)
		}
	}
}

func TestFilter(t *testing.T) {
	vm, info := newVM(t)
	lists := map[string]uint32{}
	for verdict, names := range map[uint32][]string{allow: allowed, refuse: refused, kill: dangerous} {
		for _, name := range names {
			if _, twice := lists[name]; twice {
				t.Errorf("%s is listed twice", name)
			}
			lists[name] = verdict
		}
	}
	for _, r := range argumentRules {
		if _, twice := lists[r.name]; twice {
			t.Errorf("%s is listed twice", r.name)
		}
		lists[r.name] = 0
	}
	for name, number := range info.SyscallNames {
		want, listed := lists[name]
		switch {
		case !listed:
			want = unknown
		case want == 0:
			continue
		}
		if got := judge(t, vm, uint32(info.ID), uint32(number)); got != want {
			t.Errorf("%s: %#x, want %#x", name, got, want)
		}
	}
	for _, name := range []string{"io_uring_setup", "io_uring_enter", "clone3", "mq_open", "shmget", "landlock_restrict_self"} {
		if lists[name] != 0 {
			t.Errorf("%s is listed", name)
		}
	}
}

func TestFilterArguments(t *testing.T) {
	vm, info := newVM(t)
	const notThis, noTTY = unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT), unix.SECCOMP_RET_ERRNO | uint32(unix.ENOTTY)
	for _, c := range []struct {
		name string
		args []uint64
		want uint32
	}{
		{"socket", []uint64{unix.AF_UNIX}, allow},
		{"socket", []uint64{unix.AF_INET}, notThis},
		{"socket", []uint64{unix.AF_INET6}, notThis},
		{"socket", []uint64{unix.AF_NETLINK}, notThis},
		{"socket", []uint64{unix.AF_VSOCK}, notThis},
		{"socket", []uint64{unix.AF_ALG}, notThis},
		{"socket", []uint64{unix.AF_PACKET}, notThis},
		{"socket", []uint64{1<<32 | unix.AF_UNIX}, notThis},
		{"socketpair", []uint64{unix.AF_UNIX}, allow},
		{"socketpair", []uint64{unix.AF_TIPC}, notThis},
		{"clone", []uint64{unix.CLONE_VM | unix.CLONE_THREAD}, allow},
		{"clone", []uint64{unix.CLONE_NEWUSER}, kill},
		{"clone", []uint64{unix.CLONE_NEWNS | 17}, kill},
		{"clone", []uint64{unix.CLONE_NEWTIME}, kill},
		{"clone", []uint64{1<<40 | unix.CLONE_NEWPID}, kill},
		{"prlimit64", []uint64{0, 7}, allow},
		{"prlimit64", []uint64{1, 7}, refuse},
		{"personality", []uint64{0xffffffff}, allow},
		{"personality", []uint64{0x40000 /* no random addresses */}, kill},
		{"ioctl", []uint64{0, unix.TCGETS}, allow},
		{"ioctl", []uint64{0, unix.TIOCSTI}, noTTY},
		{"ioctl", []uint64{0, 1<<32 | unix.TCGETS}, noTTY},
		{"mknodat", []uint64{0, 0, unix.S_IFIFO | 0o666}, allow},
		{"mknodat", []uint64{0, 0, unix.S_IFCHR | 0o666}, kill},
		{"mknodat", []uint64{0, 0, unix.S_IFBLK | 0o666}, kill},
		{"prctl", []uint64{unix.PR_SET_NAME}, allow},
		{"prctl", []uint64{unix.PR_SET_DUMPABLE, 0}, allow},
		{"prctl", []uint64{unix.PR_SET_DUMPABLE, 1}, refuse},
		{"prctl", []uint64{unix.PR_SET_SECCOMP, 2}, refuse},
		{"prctl", []uint64{unix.PR_SET_MM, 1}, refuse},
		{"prctl", []uint64{unix.PR_CAP_AMBIENT, 2}, refuse},
	} {
		if got := judge(t, vm, uint32(info.ID), uint32(info.SyscallNames[c.name]), c.args...); got != c.want {
			t.Errorf("%s%#x: %#x, want %#x", c.name, c.args, got, c.want)
		}
	}
	for _, r := range argumentRules {
		if _, ok := info.SyscallNames[r.name]; !ok && r.name != "mknod" {
			t.Errorf("this processor has no %s", r.name)
		}
	}
	if got := judge(t, vm, uint32(arch.I386.ID), 0); info.ID == arch.X86_64.ID && got != kill {
		t.Errorf("a call of another processor: %#x", got)
	}
	if got := judge(t, vm, uint32(info.ID), x32Bit); got != kill {
		t.Errorf("a call of the x32 form: %#x", got)
	}
}

// FuzzFilter: what a call's arguments are never makes it another call.
func FuzzFilter(f *testing.F) {
	vm, info := newVM(f)
	byArgument := map[uint32]bool{}
	for _, r := range argumentRules {
		byArgument[uint32(info.SyscallNames[r.name])] = true
	}
	f.Add(uint32(41), uint64(16), uint64(0), uint64(0))
	f.Add(uint32(157), uint64(56), uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, number uint32, a, b, c uint64) {
		got, plain := judge(t, vm, uint32(info.ID), number, a, b, c), judge(t, vm, uint32(info.ID), number)
		if !byArgument[number] && got != plain {
			t.Errorf("call %d: %#x with arguments %#x %#x %#x, %#x without", number, got, a, b, c, plain)
		}
	})
}

// TestJailFilter makes the calls in a jail: those that end a process each in a child of their own.
func TestJailFilter(t *testing.T) {
	_, info := newVM(t)
	s := newSandbox(t)
	var calls []string
	for _, name := range dangerous {
		if number, ok := info.SyscallNames[name]; ok {
			calls = append(calls, fmt.Sprintf("(%q, %d)", name, number))
		}
	}
	got := run(t, s, "import ctypes, os\nlibc = ctypes.CDLL(None)\ndef cape_handler(x):\n  wrong = []\n  for name, number in ["+strings.Join(calls, ",")+"]:\n"+
		"    if (p := os.fork()) == 0:\n      libc.syscall(number, 0, 0, 0, 0, 0, 0); os._exit(0)\n    if os.waitpid(p, 0)[1] & 127 != 31: wrong.append(name)\n  return wrong")
	if got != "[]" {
		t.Errorf("not ended by the filter: %s", got)
	}
	if info.ID == arch.X86_64.ID {
		// getpid by the call gate of 32-bit programs
		got := run(t, s, "import ctypes, mmap, os\ndef cape_handler(x):\n  if (p := os.fork()) == 0:\n    m = mmap.mmap(-1, 4096, prot=7); m.write(b'\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3')\n"+
			"    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))(); os._exit(0)\n  return os.waitpid(p, 0)[1] & 127")
		if got != "31" && got != "11" { // a kernel without 32-bit programs has no such gate
			t.Errorf("a 32-bit call: signal %s", got)
		}
	}
}

// TestJailLandlock: what only Landlock forbids.
func TestJailLandlock(t *testing.T) {
	s := newSandbox(t)
	if !on(s, "landlock for sockets and signals") {
		return // Layers says so
	}
	got := run(t, s, "import fcntl, os\ndef cape_handler(x):\n  try: fcntl.ioctl(os.open('/dev/null', os.O_RDWR), 0x5401, bytes(64))\n  except OSError as e: return e.errno")
	if got != "13" {
		t.Errorf("an ioctl on a device: errno %s", got)
	}
	if s.plain {
		got := run(t, s, "import os, signal\ndef cape_handler(x):\n  done = []\n  for path in ('/etc/hostname', '/proc/self/status', '/root', '/sys', '/home'):\n    try: os.listdir(path) if os.path.isdir(path) else open(path); done.append(path)\n    except OSError: pass\n"+
			"  try: os.kill(os.getppid(), 0); done.append('signal')\n  except OSError: pass\n  try: open('/tmp/cape-landlock', 'w'); done.append('write')\n  except OSError: pass\n  return done")
		if got != "[]" {
			t.Errorf("without namespaces it can reach %s", got)
		}
	}
}
