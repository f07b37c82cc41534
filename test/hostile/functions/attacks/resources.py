"""Attacks on what everybody needs: memory, processes, files, space, time, the runtime's patience."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time

MIB = 1 << 20


def run(name: str, args: dict[str, str]) -> str:
    return {"memory": memory, "memory-shared": memory_shared, "fork": fork, "threads": threads, "descriptors": descriptors, "disk": disk,
            "files": many_files, "sparse": sparse, "flood": flood, "output": output, "hang": hang, "spin": spin, "locked": locked, "timers": timers,
            "sent": sent}[name](args)


def memory(_: dict[str, str]) -> str:
    kept = []
    while True:
        kept.append(bytearray(os.urandom(MIB)) * 16)


def memory_shared(args: dict[str, str]) -> str:
    """Fills memory through a file that has no name."""
    fd = os.memfd_create("bomb")
    block = b"x" * (16 * MIB)
    try:
        for _ in range(1024):
            os.write(fd, block)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "escaped"


def fork(_: dict[str, str]) -> str:
    """Forks until it may not, from every process at once."""
    deadline = time.monotonic() + 3
    born = 0
    try:
        while born < 4096:
            if os.fork() == 0:
                while time.monotonic() < deadline:
                    try:
                        os.fork()
                    except OSError:
                        time.sleep(0.01)
                os._exit(0)
            born += 1
    except OSError as error:
        return errno.errorcode[error.errno]
    return f"escaped: {born}"


def threads(_: dict[str, str]) -> str:
    started = 0
    try:
        while started < 4096:
            threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
            started += 1
    except RuntimeError:
        return "refused"
    return f"escaped: {started}"


def descriptors(_: dict[str, str]) -> str:
    kept = []
    try:
        while len(kept) < 1 << 20:
            kept.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        for fd in kept:
            os.close(fd)
        return errno.errorcode[error.errno]
    return "escaped"


def disk(args: dict[str, str]) -> str:
    block = bytes(8 * MIB)
    with open(os.path.join(args["folder"], "fill"), "wb", buffering=0) as file:
        try:
            for _ in range(512):
                file.write(block)
        except OSError as error:
            return errno.errorcode[error.errno]
    return "escaped"


def many_files(_: dict[str, str]) -> str:
    try:
        for n in range(4_000_000):
            os.close(os.open(f"/tmp/{n}", os.O_CREAT | os.O_WRONLY))
    except OSError as error:
        return errno.errorcode[error.errno]
    return "escaped"


def sparse(_: dict[str, str]) -> str:
    """A file that is large only by its length costs nothing, until somebody copies it."""
    fd = os.open("/tmp/sparse", os.O_CREAT | os.O_RDWR)
    try:
        os.ftruncate(fd, 1 << 50)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "escaped"


def flood(_: dict[str, str]) -> str:
    line = "x" * (1 << 20)
    for _ in range(64):
        print(line)
        print(line, file=sys.stderr)
    return "nothing"


def output(args: dict[str, str]) -> str:
    return "x" * int(args["size"])


def hang(_: dict[str, str]) -> str:
    while True:
        time.sleep(1)


def spin(_: dict[str, str]) -> str:
    for _ in range(3):
        threading.Thread(target=_spin, daemon=True).start()
    return _spin()


def _spin() -> str:
    while True:
        pass


def timers(_: dict[str, str]) -> str:
    """Makes timers, each of which keeps a signal ready."""
    import ctypes

    import machine

    try:
        for _ in range(1000):
            machine.call("timer_create", 1, None, ctypes.create_string_buffer(8))
    except OSError as error:
        return errno.errorcode[error.errno]
    return "escaped"


def sent(_: dict[str, str]) -> str:
    """Puts descriptors into sockets, where they count for everybody with this user."""
    import array
    import socket

    kept, content = [], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * 253))]
    while True:
        try:
            pair = socket.socketpair()
            kept.append(pair)
            pair[0].setblocking(False)
            while True:
                pair[0].sendmsg([b"x"], content)
        except BlockingIOError:
            if len(kept) > 1 << 16:
                return "escaped"
        except OSError as error:
            return errno.errorcode[error.errno]


def locked(_: dict[str, str]) -> str:
    """Locks memory, which cannot be taken back then."""
    import mmap

    import machine

    page = mmap.mmap(-1, 64 * MIB)
    import ctypes

    if machine.libc.mlock(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(page))), ctypes.c_size_t(64 * MIB)) != 0:
        return errno.errorcode[ctypes.get_errno()]
    return "escaped"
