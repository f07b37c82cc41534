"""Attacks that are one system call, or one family of sockets."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket

import machine

HERE = -100  # AT_FDCWD

# Arguments with which each call would do harm, or at least begin to.
ARGUMENTS: dict[str, tuple[object, ...]] = {
    "mount": (b"none", b"/tmp", b"tmpfs", 0, None),
    "umount2": (b"/tmp", 2),
    "pivot_root": (b".", b"."),
    "chroot": (b"/tmp",),
    "open_tree": (HERE, b"/", 1),
    "fsopen": (b"tmpfs", 0),
    "fspick": (HERE, b"/", 0),
    "fsconfig": (0, 6, None, None, 0),
    "fsmount": (0, 0, 0),
    "move_mount": (HERE, b"/tmp", HERE, b"/dev", 0),
    "mount_setattr": (HERE, b"/", 0, ctypes.create_string_buffer(32), 32),
    "name_to_handle_at": (HERE, b"/", ctypes.create_string_buffer(256), ctypes.create_string_buffer(8), 0),
    "open_by_handle_at": (HERE, ctypes.create_string_buffer(256), 0),
    "setns": (0, 0),
    "ptrace": (16, 1, 0, 0),
    "process_vm_readv": (1, ctypes.create_string_buffer(16), 1, ctypes.create_string_buffer(16), 1, 0),
    "process_vm_writev": (1, ctypes.create_string_buffer(16), 1, ctypes.create_string_buffer(16), 1, 0),
    "process_madvise": (0, None, 0, 0, 0),
    "pidfd_getfd": (0, 0, 0),
    "kcmp": (1, 2, 0, 0, 0),
    "bpf": (0, ctypes.create_string_buffer(128), 128),
    "perf_event_open": (ctypes.create_string_buffer(128), 0, -1, -1, 0),
    "userfaultfd": (0,),
    "io_uring_setup": (4, ctypes.create_string_buffer(120)),
    "keyctl": (0, -3, 1),
    "add_key": (b"user", b"hostile", b"secret", 6, -3),
    "request_key": (b"user", b"hostile", None, -3),
    "kexec_load": (0, 0, None, 0),
    "kexec_file_load": (0, 0, 0, None, 0),
    "init_module": (b"", 0, b""),
    "finit_module": (0, b"", 0),
    "delete_module": (b"vsock", 0),
    "personality": (0x0040000,),
    "iopl": (3,),
    "ioperm": (0, 1, 1),
    "modify_ldt": (0, ctypes.create_string_buffer(16), 16),
    "reboot": (0xFEE1DEAD - (1 << 32), 672274793, 0x4321FEDC, None),
    "swapon": (b"/tmp/x", 0),
    "acct": (None,),
    "quotactl": (0, None, 0, None),
    "syslog": (3, ctypes.create_string_buffer(64), 64),
    "settimeofday": (ctypes.create_string_buffer(16), None),
    "clock_settime": (0, ctypes.create_string_buffer(16)),
    "sethostname": (b"hostile", 7),
    "setdomainname": (b"hostile", 7),
    "memfd_secret": (0,),
    "move_pages": (0, 0, None, None, None, 0),
    "migrate_pages": (0, 0, None, None),
    "fanotify_init": (0, 0),
    "lookup_dcookie": (0, None, 0),
    "vhangup": (),
    "setuid": (0,),
    "setgid": (0,),
    "setgroups": (0, None),
    "capset": (ctypes.create_string_buffer(b"\x22\x05\x08\x20\0\0\0\0", 8), ctypes.create_string_buffer(b"\xff" * 24, 24)),
    "clone3": (ctypes.create_string_buffer(88), 88),
    "shmget": (0x63617065, 4096, 0o1666),
    "msgget": (0x63617065, 0o1666),
    "semget": (0x63617065, 1, 0o1666),
    "mq_open": (b"hostile", 0o102, 0o666, None),
    "cachestat": (0, None, None, 0),
    "inotify_init1": (0,),
    "seccomp": (1, 0, None),
}

NAMESPACES = {"mnt": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000, "pid": 0x20000000,
              "net": 0x40000000, "time": 0x80}

FAMILIES = {"inet": (2, 1), "inet6": (10, 1), "raw": (2, 3), "netlink": (16, 3), "packet": (17, 3), "alg": (38, 5), "vsock": (40, 1),
            "bluetooth": (31, 3), "can": (29, 3), "xdp": (44, 3), "smc": (43, 1), "tipc": (30, 1)}


def run(name: str, args: dict[str, str]) -> str:
    kind, _, what = name.partition("/")
    if kind == "unshare":
        machine.call("unshare", NAMESPACES[what])
    elif kind == "clone":
        if machine.call("clone", NAMESPACES[what] | 17, 0, 0, 0, 0) == 0:
            os._exit(0)
    elif kind == "socket":
        machine.call("socket", *FAMILIES[what], 0)
    elif kind == "socketpair":
        machine.call("socketpair", FAMILIES[what][0], 1, 0, ctypes.create_string_buffer(8))
    elif kind == "mknod":
        machine.call("mknodat", HERE, b"/tmp/memory", 0o20666, 0x101)  # c 1 1 is /dev/mem
    elif kind == "int80":
        return int80()
    elif kind == "x32":
        machine.raw(39 | 0x40000000)
    elif kind == "dumpable":
        machine.call("prctl", 4, 1)
    elif kind == "undo-seccomp":
        machine.call("prctl", 22, 0)
    elif kind == "subreaper":
        machine.call("prctl", 36, 1)
    elif kind == "ambient":
        machine.call("prctl", 47, 2, 21, 0, 0)
    elif kind == "terminal":
        machine.call("ioctl", 0, 0x5412, b"x")  # TIOCSTI types into a terminal
    elif kind == "parent-limits":
        machine.call("prlimit64", 1, 7, None, ctypes.create_string_buffer(16))
    elif kind == "tcp":
        with socket.create_connection(("127.0.0.1", 80), timeout=2):
            pass
    else:
        machine.call(kind, *ARGUMENTS[kind])
    return "escaped"


def int80() -> str:
    """Calls the kernel as a 32-bit program would: getpid has another number there."""
    if machine.ARM:
        raise OSError(38, "no such instruction here")
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20; int 0x80; ret
    entry = ctypes.addressof(ctypes.c_char.from_buffer(page))
    return f"escaped: {ctypes.CFUNCTYPE(ctypes.c_int)(entry)()}"
