"""The fork server: an interpreter that is already up, and forks one jail after the other.

No byte of a function, an input or a secret ever reaches it. The runtime sets it up with one
message and then asks for cells over descriptor 3; each cell is a process that jail.py describes.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import stat
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import check  # noqa: E402,F401
import jail  # noqa: E402
import kernel  # noqa: E402

sys.path.pop(0)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CONTROL = 3
MAX_MESSAGE = 256 * 1024


def build(setup: dict[str, Any]) -> None:
    """Makes the frame of every jail's root in the template's folder: places to mount on, and small files."""
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    options = "size=4m,nr_inodes=8192,mode=0755"
    kernel.mount("cape", setup["root"], "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
    os.chdir(setup["root"])
    for link, target in setup["links"].items():
        os.symlink(target, link)
    for name in ("etc", "dev/shm", "tmp", "function", jail.TREES, jail.SCRATCH):
        os.makedirs(name, exist_ok=True)
    setup["show"] = [path for path in setup["show"] if os.path.isdir(path)]
    for path in setup["show"]:
        os.makedirs(path[1:], exist_ok=True)
    for name in jail.DEVICES:
        os.close(os.open("dev/" + name, os.O_CREAT | os.O_WRONLY, 0o444))
    for name, text in setup["etc"].items():
        with open(os.path.join("etc", name), "w", encoding="utf-8") as file:
            file.write(text)
    if os.path.exists("/etc/ld.so.cache"):
        with open("/etc/ld.so.cache", "rb") as old, open("etc/ld.so.cache", "wb") as cache:
            cache.write(old.read(1 << 20))
    os.chdir("/")


def serve_cell(setup: dict[str, Any], order: dict[str, Any], fds: list[int]) -> None:
    control, cgroups = socket.socket(fileno=fds[0]), fds[1 + jail.WORKER_FDS :]
    into = next((fd for fd in cgroups if stat.S_ISDIR(os.fstat(fd).st_mode)), None)
    mapped, ready = os.pipe()
    flags = 0 if setup["plain"] else kernel.NAMESPACES
    pid, pidfd = kernel.clone(flags, into)
    if pid == 0:
        os.close(ready)
        os.close(CONTROL)  # else nobody would see that the server ended while a jail lives on
        if into is not None:
            os.close(into)
        jail.keep(setup, order, control, fds[1 : 1 + jail.WORKER_FDS], [fd for fd in cgroups if fd != into], mapped)
    os.close(mapped)
    try:
        for name in ("uid", "gid") if flags else ():
            with open(f"/proc/{pid}/{name}_map", "w", encoding="ascii") as file:
                file.write(order["map"])
        socket.send_fds(control, [b"{}"], [pidfd])
        os.write(ready, b"m")
    finally:
        for fd in (ready, pidfd):
            os.close(fd)
        control.close()


def serve(control: socket.socket, setup: dict[str, Any]) -> None:
    while True:
        message, fds, _, _ = socket.recv_fds(control, MAX_MESSAGE, 16)
        if not message:
            return  # the runtime is gone: what this process forked ends with it
        try:
            serve_cell(setup, json.loads(message), fds)
        except OSError as error:
            with socket.socket(fileno=os.dup(fds[0])) as cell:
                cell.send(json.dumps({"error": str(error)}).encode())
        for fd in fds:
            try:
                os.close(fd)
            except OSError:
                pass


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the dead
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # workers get a part of it
    control = socket.socket(fileno=CONTROL)
    setup = json.loads(control.recv(MAX_MESSAGE))
    setup["filter"] = kernel.Filter(bytes.fromhex(setup["filter"]))
    setup["landlock"] = kernel.landlock_version()
    try:
        if not setup["plain"]:
            build(setup)
    except OSError as error:
        control.send(json.dumps({"error": str(error)}).encode())
        return
    control.send(json.dumps({"landlock": setup["landlock"]}).encode())
    serve(control, setup)


if __name__ == "__main__":
    main()
