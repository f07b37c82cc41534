"""Attacks on files: reading what is not the function's, writing where it must not."""

from __future__ import annotations

import os
import socket
import stat

SKIP = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/opt", "/nix", os.path.dirname(os.path.dirname(os.__file__)))
READ_AT_MOST = 1 << 20


def run(name: str, args: dict[str, str]) -> str:
    if name == "read":
        with open(args["path"], "rb") as file:
            return f"escaped: {file.read(64)!r}"
    if name == "write":
        with open(args["path"], "ab") as file:
            file.write(b"hostile")
        return "escaped"
    if name == "make":
        os.mkdir(args["path"])
        return "escaped"
    if name == "list":
        return f"escaped: {os.listdir(args['path'])[:8]}"
    if name == "connect":
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(2)
            s.connect(args["path"].replace("@", "\0", 1))
        return "escaped"
    return {"walk": walk, "descriptors": descriptors, "environment": environment, "sticky": sticky, "setuid": setuid_program,
            "links": links, "hidden": hidden}[name](args)


def walk(args: dict[str, str]) -> str:
    """Searches everything that can be seen for the secret of a neighbour who is at work."""
    secret = args["secret"].encode()[::-1]  # turned round: this input is in memory as well
    for folder, folders, names in os.walk("/"):
        folders[:] = [f for f in folders if os.path.join(folder, f) not in SKIP]
        for path in (os.path.join(folder, n) for n in names):
            try:
                if stat.S_ISREG(os.lstat(path).st_mode) and os.path.getsize(path) < READ_AT_MOST:
                    with open(path, "rb") as file:
                        if secret in file.read():
                            return f"escaped: {path}"
            except OSError:
                continue
    return "nothing"


def hidden(_: dict[str, str]) -> str:
    """Looks for places where the runtime or other functions could lie."""
    found = [p for p in ("/.trees", "/.scratch", "/scratch", "/run", "/root", "/home", "/var", "/proc", "/sys", "/boot", "/mnt", "/dev/nsm", "/dev/vsock",
                         "/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/fuse", "/dev/net/tun", "/dev/pts", "/dev/tty", "/dev/console")
             if os.path.lexists(p) and not (os.path.isdir(p) and set(os.listdir(p)) <= leads(p))]
    return f"escaped: {found}" if found else "nothing"


def leads(folder: str) -> set[str]:
    """What of a folder is on the way to the interpreter."""
    rest = os.path.realpath(os.__file__).removeprefix(folder + "/")
    return {rest.split("/")[0]}


def descriptors(_: dict[str, str]) -> str:
    """Nothing but standard streams and the two pipes of the protocol is open."""
    found = []
    for fd in range(4096):
        try:
            mode = os.fstat(fd).st_mode
        except OSError:
            continue
        if fd > 4 or not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
            found.append(f"{fd}:{stat.S_IFMT(mode):o}")
    return f"escaped: {found}" if found else "nothing"


def environment(_: dict[str, str]) -> str:
    extra = sorted(set(os.environ) - {"HOME", "TMPDIR", "LC_CTYPE", "LANG", "PATH"})
    return f"escaped: {extra}" if extra else "nothing"


def sticky(_: dict[str, str]) -> str:
    """Makes the place of the function's socket its own."""
    os.rename("../rpc.sock", "../gone.sock")
    return "escaped"


def setuid_program(_: dict[str, str]) -> str:
    """A program that is somebody else's by its mode must not become somebody else."""
    path = "/tmp/su"
    with open(path, "w", encoding="ascii") as file:
        file.write("#!/bin/sh\n")
    os.chown(path, 0, 0)
    os.chmod(path, 0o4755)
    return "escaped"


def links(_: dict[str, str]) -> str:
    """Links lead no further than names do."""
    os.symlink("../../../../../../etc/shadow", "/tmp/link")
    with open("/tmp/link", "rb") as file:
        return f"escaped: {file.read(16)!r}"
