"""Attacks on other processes, and on the worker that serves the function."""

from __future__ import annotations

import os
import signal
import sys
import time

import machine


def run(name: str, args: dict[str, str]) -> str:
    return {"kill-keeper": kill_keeper, "kill-all": kill_all, "kill-others": kill_others, "limits": limits, "segfault": segfault, "exit": leave,
            "exit-hard": leave_hard, "close": close, "garbage": garbage, "length": length, "fake": fake, "pieces": pieces, "empty-pieces": empty_pieces, "steal": steal, "daemon": daemon,
            "stop": stop, "handlers": handlers, "recursion": recursion, "sees": sees}[name](args)


def kill_keeper(_: dict[str, str]) -> str:
    os.kill(1, signal.SIGKILL)
    return "escaped"


def kill_all(_: dict[str, str]) -> str:
    os.kill(-1, signal.SIGKILL)
    return "escaped"


def kill_others(_: dict[str, str]) -> str:
    """Signals every number a process could have; only its own are there."""
    reached = []
    for pid in range(1, 1 << 16):
        if pid == os.getpid():
            continue
        try:
            os.kill(pid, 0)
            reached.append(pid)
        except OSError:
            continue
    return f"escaped: {reached[:8]}" if reached else "nothing"


def sees(_: dict[str, str]) -> str:
    """Being a process of a namespace of its own, it has a small number and no parent outside."""
    return "nothing" if os.getpid() < 64 and os.getppid() in (0, 1) else f"escaped: {os.getpid()} of {os.getppid()}"


def limits(_: dict[str, str]) -> str:
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most + 1))
    return "escaped"


def segfault(_: dict[str, str]) -> str:
    import ctypes

    ctypes.string_at(0)
    return "escaped"


def leave(_: dict[str, str]) -> str:
    sys.exit(0)


def leave_hard(_: dict[str, str]) -> str:
    os._exit(0)


def close(_: dict[str, str]) -> str:
    for fd in range(3, 64):
        try:
            os.close(fd)
        except OSError:
            pass
    return "escaped"


def garbage(_: dict[str, str]) -> str:
    os.write(4, os.urandom(4096))
    time.sleep(60)
    return "escaped"


def length(_: dict[str, str]) -> str:
    """Announces a frame of four gigabytes."""
    os.write(4, b"o\xff\xff\xff\xff" + b"x" * 1024)
    time.sleep(60)
    return "escaped"


def fake(_: dict[str, str]) -> str:
    """Answers for itself, twice; the runtime must not take the second answer for the next input's."""
    os.write(4, b"o\0\0\0\x05first" + b"e\0\0\0\0")
    os.write(4, b"o\0\0\0\x06second" + b"e\0\0\0\0")
    return "third"


def pieces(_: dict[str, str]) -> str:
    """Answers in countless pieces of one byte each."""
    while True:
        os.write(4, b"o\0\0\0\x01x" * 10_000)


def empty_pieces(_: dict[str, str]) -> str:
    """Answers without end, and says nothing."""
    while True:
        os.write(4, b"o\0\0\0\0" * 10_000)


def steal(_: dict[str, str]) -> str:
    """Reads the runtime's orders itself: nothing of another connection may come."""
    os.set_blocking(3, False)
    try:
        got = os.read(3, 65536)
    except BlockingIOError:
        return "nothing"
    return "nothing" if not got else f"escaped: {got[:64]!r}"


def daemon(_: dict[str, str]) -> str:
    """Leaves a process that tries to outlive the connection."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in range(1, 32):
                try:
                    signal.signal(number, signal.SIG_IGN)
                except (OSError, ValueError):
                    pass
            machine.call("prctl", 1, 0)
            while True:
                time.sleep(1)
        os._exit(0)
    os.wait()
    return "left"


def stop(_: dict[str, str]) -> str:
    os.kill(os.getpid(), signal.SIGSTOP)
    return "escaped"


def handlers(_: dict[str, str]) -> str:
    """Ignores what asks it to end, and goes on."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(1)


def recursion(_: dict[str, str]) -> str:
    """Uses up the stack of the interpreter itself."""
    sys.setrecursionlimit(1 << 30)
    nested: list[object] = []
    for _ in range(300_000):
        nested = [nested]
    return str(len(repr(nested)))
