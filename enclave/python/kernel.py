"""The system calls of a jail that Python has no names for."""

from __future__ import annotations

import ctypes
import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Iterable

_libc = ctypes.CDLL(None, use_errno=True)
# Without letting go of the interpreter: a clone that comes back twice must not wait for it twice.
_held = ctypes.PyDLL(None, use_errno=True)

MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_MOVE = 2, 4, 32, 4096, 8192
MS_REC, MS_PRIVATE = 16384, 1 << 18
MNT_DETACH = 2
MOUNT_RDONLY, MOUNT_NOSUID, MOUNT_NODEV, MOUNT_NOEXEC = 1, 2, 4, 8

CLONE_PIDFD = 0x1000
CLONE_NEWCGROUP = 0x02000000
CLONE_INTO_CGROUP = 0x200000000
# Mounts, host name, System V IPC, users, processes, network.
NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_SECUREBITS = 1, 4, 22, 24, 28
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 36, 38, 47

# Calls that have one number on every processor.
_CLONE3, _CLOSE_RANGE, _MOUNT_SETATTR = 435, 436, 442
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446


def _checked(result: int, what: str) -> int:
    if result == -1:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result


def _call(number: int, what: str, *args: object) -> int:
    words = [ctypes.c_ulong(a & (1 << 64) - 1) if isinstance(a, int) else a for a in args]
    return _checked(_libc.syscall(ctypes.c_long(number), *words), what)


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    names = [os.fsencode(s) for s in (source, target, kind)]
    _checked(_libc.mount(*names, ctypes.c_ulong(flags), os.fsencode(options) or None), f"mounting {target}")


def bind(source: str, target: str, recursive: bool = True) -> None:
    mount(source, target, "", MS_BIND | (MS_REC if recursive else 0))


def detach(target: str) -> None:
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), f"letting go of {target}")


def mount_attr(target: str, attr: int, recursive: bool = True) -> None:
    words = (ctypes.c_uint64 * 4)(attr, 0, 0, 0)
    _call(_MOUNT_SETATTR, f"changing {target}", -100, os.fsencode(target), 0x8000 if recursive else 0, words, 32)


def pivot_here() -> None:
    _checked(_libc.pivot_root(b".", b"."), "pivot_root")


def prctl(option: int, *args: int) -> None:
    words = [ctypes.c_ulong(a) for a in (*args, 0, 0, 0, 0)[:4]]
    _checked(_libc.prctl(option, *words), f"prctl {option}")


def unshare(flags: int) -> None:
    _checked(_libc.unshare(flags), "unshare")


def close_from(first: int) -> None:
    _call(_CLOSE_RANGE, "closing descriptors", first, 0xFFFFFFFF, 0)


def set_capabilities(mask: int) -> None:
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)(mask, mask, 0, 0, 0, 0)
    _checked(_libc.capset(head, data), "dropping capabilities")


def drop_bounding() -> None:
    """No program, whatever its file or user, gets a capability again."""
    prctl(PR_CAP_AMBIENT, 4)
    prctl(PR_SET_SECUREBITS, 3)  # user 0 is nobody special, for ever
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == 22 and capability > 0:
                return  # past the last one that this kernel knows
            raise


def clone(flags: int, cgroup: int | None) -> tuple[int, int]:
    """Forks into new namespaces, and into a version 2 cgroup. Returns process id and descriptor."""
    pidfd = ctypes.c_int(-1)
    args = (ctypes.c_uint64 * 11)(flags | CLONE_PIDFD, ctypes.addressof(pidfd), 0, 0, 17)
    if cgroup is not None:
        args[0] |= CLONE_INTO_CGROUP
        args[10] = cgroup
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    pid = _held.syscall(ctypes.c_long(_CLONE3), args, ctypes.c_ulong(88))
    error = ctypes.get_errno()
    if pid == 0:
        python.PyOS_AfterFork_Child()
        return 0, -1
    python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, f"clone: {os.strerror(error)}")
    return pid, pidfd.value


class Filter:
    """A seccomp program, as the kernel reads it."""

    def __init__(self, code: bytes) -> None:
        self._code = ctypes.create_string_buffer(code, len(code))

        class Program(ctypes.Structure):
            _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_void_p))

        self._program = Program(len(code) // 8, ctypes.addressof(self._code))

    def install(self) -> None:
        prctl(PR_SET_SECCOMP, 2, ctypes.addressof(self._program))


READ = 1 | 4 | 8  # execute, read files, list folders
USE = 1 << 1 | 1 << 2 | 1 << 14  # write, read, truncate: devices
FILE = 1 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15  # what can be said of a file
_DEVICES = 1 << 6 | 1 << 11  # make devices


def landlock_version() -> int:
    try:
        return _call(_LANDLOCK_CREATE, "landlock", 0, 0, 1)
    except OSError:
        return 0


def landlock(version: int, read: Iterable[str], write: Iterable[str], use: Iterable[str]) -> None:
    """Confines this process to paths, and to no network and no abstract sockets or signals of others."""
    known = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    words = [known]
    if version >= 4:
        words.append(3)
    if version >= 6:
        words.append(3)
    attr = (ctypes.c_uint64 * len(words))(*words)
    rules = _call(_LANDLOCK_CREATE, "landlock", attr, 8 * len(words), 0)
    for access, paths in ((READ, read), (known & ~_DEVICES, write), (USE, use)):
        for path in paths:
            try:
                fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            allowed = access & known
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                allowed &= FILE
            rule = allowed.to_bytes(8, "little") + fd.to_bytes(4, "little")
            _call(_LANDLOCK_ADD, f"landlock {path}", rules, 1, ctypes.create_string_buffer(rule, 12), 0)
            os.close(fd)
    _call(_LANDLOCK_RESTRICT, "landlock", rules, 0)
    os.close(rules)
