"""Ways by which one connection could leave something for another: leave, find and, for watchers, heard."""

from __future__ import annotations

import builtins
import errno
import fcntl
import os
import socket
import struct
import sys
from typing import Callable

import machine

KEPT: list[object] = []  # what must stay open as long as the process lives
SYSTEM = os.path.realpath(os.__file__)  # a file that every function can read


def run(name: str, args: dict[str, str]) -> str:
    step, _, channel = name.partition("/")
    leave, find = CHANNELS[channel]
    if step == "leave":
        leave()
        return "left"
    if step == "heard":
        return heard()
    return "escaped" if find() else "nothing"


def write(path: str) -> Callable[[], None]:
    def leave() -> None:
        with open(path, "w", encoding="ascii") as file:
            file.write("hostile")

    return leave


def exists(path: str) -> Callable[[], bool]:
    return lambda: os.path.exists(path)


def change_source() -> None:
    """Changes the function itself, its compiled form too."""
    with open("app.py", "a", encoding="ascii") as file:
        file.write("\nHOSTILE = True\n")
    os.makedirs("__pycache__", exist_ok=True)
    with open("__pycache__/hostile.pyc", "w", encoding="ascii") as file:
        file.write("x")


def source_changed() -> bool:
    with open("app.py", encoding="utf-8") as file:
        return "HOSTILE" + " = " in file.read() or os.path.exists("__pycache__/hostile.pyc")


def abstract(action: str) -> Callable[[], bool]:
    def do() -> bool:
        s = socket.socket(socket.AF_UNIX)
        KEPT.append(s)
        try:
            if action == "bind":
                s.bind("\0hostile")
                s.listen()
            else:
                s.connect("\0hostile")
        except OSError:
            if action == "bind":
                raise
            return False
        return True

    return do


def named_socket() -> None:
    s = socket.socket(socket.AF_UNIX)
    KEPT.append(s)
    s.bind("/tmp/hostile.sock")
    s.listen()


def shared_memory(create: bool) -> Callable[[], bool]:
    def do() -> bool:
        try:
            machine.call("shmget", 0x63617065, 4096, 0o1666 if create else 0o666)
        except OSError:
            if create:
                raise
            return False
        return True

    return do


def queue(create: bool) -> Callable[[], bool]:
    def do() -> bool:
        try:
            machine.call("mq_open", b"hostile", 0o102 if create else 2, 0o666, None)
        except OSError:
            if create:
                raise
            return False
        return True

    return do


def flock(path: str) -> tuple[Callable[[], None], Callable[[], bool]]:
    def leave() -> None:
        fd = os.open(path, os.O_RDONLY)
        KEPT.append(fd)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def find() -> bool:
        fd = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in (errno.EWOULDBLOCK, errno.EAGAIN)
        finally:
            os.close(fd)
        return False

    return leave, find


def record_lock(path: str, get: int, put: int) -> tuple[Callable[[], None], Callable[[], bool]]:
    def lock(kind: int) -> bytes:
        return struct.pack("hhlli4x", kind, 0, 0, 1, 0)

    def leave() -> None:
        fd = os.open(path, os.O_RDONLY)
        KEPT.append(fd)
        fcntl.fcntl(fd, put, lock(fcntl.F_RDLCK))

    def find() -> bool:
        fd = os.open(path, os.O_RDONLY)
        try:
            answer = fcntl.fcntl(fd, get, lock(fcntl.F_WRLCK))
        except OSError:
            return False
        finally:
            os.close(fd)
        return struct.unpack("hhlli4x", answer)[0] != fcntl.F_UNLCK

    return leave, find


def lease(path: str) -> tuple[Callable[[], None], Callable[[], bool]]:
    def leave() -> None:
        fd = os.open(path, os.O_RDONLY)
        KEPT.append(fd)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)

    def find() -> bool:
        fd = os.open(path, os.O_RDONLY)
        try:
            return fcntl.fcntl(fd, fcntl.F_GETLEASE) != fcntl.F_UNLCK
        except OSError:
            return False
        finally:
            os.close(fd)

    return leave, find


def watch(path: str) -> tuple[Callable[[], None], Callable[[], bool]]:
    """One watches a file, the other opens it: heard tells whether the one noticed."""

    def leave() -> None:
        fd = machine.libc.inotify_init1(os.O_NONBLOCK)
        if fd < 0 or machine.libc.inotify_add_watch(fd, path.encode(), 0xFFF) < 0:
            raise OSError(errno.EPERM, "no watching")
        KEPT.append(("watch", fd))

    def find() -> bool:
        if os.path.isdir(path):
            os.listdir(path)
        else:
            with open(path, "rb") as file:
                file.read(1)
        return False

    return leave, find


def heard() -> str:
    for thing in KEPT:
        if isinstance(thing, tuple) and thing[0] == "watch":
            try:
                return f"escaped: {len(os.read(thing[1], 4096))} bytes"
            except BlockingIOError:
                return "nothing"
    return "nothing"


def set_attribute(key: str) -> tuple[Callable[[], None], Callable[[], bool]]:
    def leave() -> None:
        os.setxattr(SYSTEM, key, b"hostile")

    def find() -> bool:
        return key in os.listxattr(SYSTEM)

    return leave, find


def set_global() -> None:
    sys.modules["carry"].__dict__["LEFT"] = True
    builtins.__dict__["HOSTILE"] = True
    os.environ["HOSTILE"] = "1"


def has_global() -> bool:
    return "LEFT" in globals() or hasattr(builtins, "HOSTILE") or "HOSTILE" in os.environ


CHANNELS: dict[str, tuple[Callable[[], object], Callable[[], bool]]] = {
    "folder": (write("left"), exists("left")),
    "tmp": (write("/tmp/left"), exists("/tmp/left")),
    "shm": (write("/dev/shm/left"), exists("/dev/shm/left")),
    "above": (write("../left"), exists("../left")),
    "root": (write("/left"), exists("/left")),
    "source": (change_source, source_changed),
    "memory": (set_global, has_global),
    "abstract-socket": (abstract("bind"), abstract("connect")),
    "named-socket": (named_socket, exists("/tmp/hostile.sock")),
    "shared-memory": (shared_memory(True), shared_memory(False)),
    "queue": (queue(True), queue(False)),
    "flock-own": flock("app.py"),
    "flock-system": flock(SYSTEM),
    "flock-device": flock("/dev/null"),
    "flock-folder": flock("/usr"),
    "record-lock-own": record_lock("app.py", fcntl.F_GETLK, fcntl.F_SETLK),
    "record-lock-system": record_lock(SYSTEM, fcntl.F_GETLK, fcntl.F_SETLK),
    "open-file-lock-system": record_lock(SYSTEM, 36, 37),  # F_OFD_GETLK, F_OFD_SETLK
    "lease-system": lease(SYSTEM),
    "watch-own": watch("app.py"),
    "watch-system": watch(SYSTEM),
    "watch-folder": watch(os.path.dirname(SYSTEM)),
    "watch-device": watch("/dev/zero"),
    "attribute": set_attribute("user.hostile"),
}
