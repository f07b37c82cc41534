"""The fork server: an interpreter that is already up, and forks one jail after the other.

No byte of a function, an input or a secret ever reaches it. The runtime sets it up with one
message and then asks for cells over descriptor 3; each cell is a process that jail.py describes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
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
READ_ONLY = kernel.MOUNT_RDONLY | kernel.MOUNT_NOSUID | kernel.MOUNT_NODEV


def bind_file(path: str, attr: int) -> None:
    target = path[1:]
    os.makedirs(os.path.dirname(target), exist_ok=True)
    os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o444))
    kernel.bind(path, target, recursive=False)
    kernel.mount_attr(target, attr)


def build(setup: dict[str, Any]) -> None:
    """Mounts what all cells see of the machine below the template's folder."""
    kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
    options = "size=4m,nr_inodes=8192,mode=0755"
    kernel.mount("cape", setup["root"], "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, options)
    os.chdir(setup["root"])
    for link, target in setup["links"].items():
        os.symlink(target, link)
    for path in setup["show"]:
        if os.path.isdir(path):
            os.makedirs(path[1:], exist_ok=True)
            kernel.bind(path, path[1:])
            kernel.mount_attr(path[1:], READ_ONLY)
        elif os.path.exists(path):
            bind_file(path, READ_ONLY)
    for name in ("null", "zero", "full", "random", "urandom"):
        bind_file("/dev/" + name, kernel.MOUNT_RDONLY | kernel.MOUNT_NOSUID | kernel.MOUNT_NOEXEC)
    for name in ("etc", "tmp", "dev/shm", "function", jail.TREES, jail.SCRATCH):
        os.makedirs(name, exist_ok=True)
    for name, text in setup["etc"].items():
        with open(os.path.join("etc", name), "w", encoding="utf-8") as file:
            file.write(text)
    os.chdir("/")
    kernel.mount_attr(setup["root"], kernel.MOUNT_RDONLY, recursive=False)


def serve_cell(setup: dict[str, Any], order: dict[str, Any], fds: list[int]) -> None:
    control, cgroups = socket.socket(fileno=fds[0]), fds[1 + jail.WORKER_FDS :]
    mapped, ready = os.pipe()
    flags = 0 if setup["plain"] else kernel.NAMESPACES
    into = cgroups[0] if cgroups and setup["version2"] else None
    pid, pidfd = kernel.clone(flags, into)
    if pid == 0:
        os.close(ready)
        jail.keep(setup, order, control, fds[1 : 1 + jail.WORKER_FDS], [] if setup["version2"] else cgroups, mapped)
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
            return
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
