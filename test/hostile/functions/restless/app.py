"""Goes on with its own affairs from when it is imported, and does what it can to be woken when it is stopped."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import signal
import threading
import time

libc = ctypes.CDLL(None, use_errno=True)
born, woken = time.monotonic(), 0
ticks = ctypes.c_uint64.from_buffer(mmap.mmap(-1, 8))  # of the clock, as a child sees it


class Event(ctypes.Structure):
    _fields_ = (("value", ctypes.c_void_p), ("signo", ctypes.c_int), ("notify", ctypes.c_int), ("pad", ctypes.c_char * 48))


def wake(*_: object) -> None:
    global woken
    woken += 1


def timer(kind: int) -> None:
    """A timer of the kernel's that sends a signal every millisecond."""
    signal.signal(kind, wake)
    made = ctypes.c_void_p()
    libc.timer_create(1, ctypes.byref(Event(None, kind, 0)), ctypes.byref(made))
    libc.timer_settime(made, 0, (ctypes.c_long * 4)(0, 1_000_000, 0, 1_000_000), None)


def listen() -> int:
    """A pipe that sends SIGCONT when somebody writes into it."""
    inside, outside = os.pipe()
    fcntl.fcntl(inside, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(inside, 10, signal.SIGCONT)  # F_SETSIG
    fcntl.fcntl(inside, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    return outside


def nag(outside: int) -> None:
    me = os.getppid()
    while True:
        os.kill(me, signal.SIGCONT)
        os.write(outside, b"x")
        time.sleep(0.01)
        ticks.value += 1


def spin() -> None:
    while True:
        wake()


for kind in (signal.SIGCONT, signal.SIGRTMIN, signal.SIGUSR1):
    timer(kind)
signal.signal(signal.SIGALRM, wake)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
written = listen()
if os.fork() == 0:
    nag(written)
threading.Thread(target=spin, daemon=True).start()
while time.monotonic() - born < 0.5:  # worth a process that waits ahead
    time.sleep(0.01)


def cape_handler(_: bytes) -> str:
    return f"{time.monotonic() - born:.3f} {ticks.value / 100:.3f}"
