"""One jail: the keeper, its first process, and the worker that the keeper confines.

The keeper is trusted: no byte of a function reaches it. It finishes the jail's file system, forks
the worker, buries the dead, and tells the runtime how the worker ended; when it ends, the kernel
ends everything in its namespaces. The worker takes away from itself, one layer after the other,
all that a function must not have, and waits until the runtime has looked at it from outside.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import select
import signal
import socket
import sys

import check
import kernel
import worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TREES, SCRATCH = ".trees", ".scratch"
WORKER_FDS = 4  # input, output, standard output, standard error
INNER = 1000  # user and group of a worker in a user namespace
MAX_FILES, LOCKED, PENDING = 4096, 64 * 1024, 128
DEVICES = ("null", "zero", "full", "random", "urandom")


def keep(setup: dict[str, Any], order: dict[str, Any], control: socket.socket, fds: list[int], cgroups: list[int], mapped: int) -> None:
    """Is the keeper, to its end."""
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for fd in cgroups:
            os.write(fd, b"0")  # this one thread, which needs no lock: naming a process does
            os.close(fd)
        if os.read(mapped, 1) == b"m":
            os.close(mapped)
            Keeper(setup, order, control).run(fds)
    except BaseException as error:
        try:
            control.send(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        except OSError:
            pass
    finally:
        os._exit(1)


class Keeper:
    def __init__(self, setup: dict[str, Any], order: dict[str, Any], control: socket.socket) -> None:
        self.setup, self.order, self.control = setup, order, control
        self.plain: bool = setup["plain"]
        self.said: dict[str, str] = {}  # layers that cannot be had, and why

    def run(self, fds: list[int]) -> None:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")  # ended for want of memory before anything else is
        if self.plain:
            kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
            for name in ("tmp", "function"):
                os.mkdir(os.path.join(self.order["dir"], name), 0o755)
        else:
            self.enter()
        pid = os.fork()
        if pid == 0:
            confine(self, fds)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
        for fd in fds:
            os.close(fd)
        pidfd = os.pidfd_open(pid)
        socket.send_fds(self.control, [json.dumps({"missing": self.said}).encode()], [pidfd])
        os.close(pidfd)
        self.attend(pid)

    def enter(self) -> None:
        """Makes the template this process's root, with a private place to write."""
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)  # with the server, and so with the runtime, also when frozen
        kernel.unshare(kernel.CLONE_NEWCGROUP)
        socket.sethostname("cape")
        try:
            # A user namespace of its own would give a function capabilities, and with them
            # much more of the kernel to attack.
            with open("/proc/sys/user/max_user_namespaces", "w", encoding="ascii") as file:
                file.write("0")
        except OSError as error:
            self.said["nested"] = str(error)
        kernel.mount("", "/", "", kernel.MS_REC | kernel.MS_PRIVATE)
        self.furnish_root(self.setup["root"])
        try:
            kernel.pivot_here()
            kernel.detach(".")
        except OSError as error:
            # An initial ramfs cannot be pivoted away from. Its tree stays mounted beneath the
            # new root, out of reach for who has no capabilities.
            self.said["pivot"] = str(error)
            kernel.mount(".", "/", "", kernel.MS_MOVE)
            os.chroot(".")
        os.chdir("/")

    def furnish_root(self, root: str) -> None:
        """Mounts the jail's root, and goes there. A file has a lock and may be watched wherever it
        is mounted, and jails must not see each other's: so each has overlays of its own."""
        os.chdir(root)
        kernel.mount("cape", SCRATCH, "tmpfs", kernel.MS_NOSUID | kernel.MS_NODEV, room(self.setup["scratch"]) + ",mode=0700")
        scratch = path_of(SCRATCH)
        for name, mode in (("tmp", 0o1777), ("shm", 0o1777), ("upper", 0o755), ("work", 0o700), ("fn", 0o755), ("void", 0o700)):
            os.mkdir(os.path.join(scratch, name))
            os.chmod(os.path.join(scratch, name), mode)
        os.chown(os.path.join(scratch, "upper"), INNER, INNER)
        self.show(path_of("."), root, scratch)
        os.chdir(root)
        for path in self.setup["show"]:
            self.show(path, path[1:], scratch)
        for name in DEVICES:
            source = os.path.join(self.order["devices"] or "/dev", name)
            kernel.bind(source, "dev/" + name, recursive=False)
            kernel.mount_attr("dev/" + name, kernel.MOUNT_RDONLY | kernel.MOUNT_NOSUID | kernel.MOUNT_NOEXEC)
        for name, target in (("tmp", "tmp"), ("shm", "dev/shm"), ("fn", "function"), (".", SCRATCH)):
            kernel.bind(os.path.join(scratch, name), target, recursive=False)
        kernel.bind(self.setup["trees"], TREES)

    def show(self, path: str, target: str, scratch: str) -> None:
        """Mounts a folder read-only, by an overlay with nothing below it."""
        read_only = kernel.MOUNT_RDONLY | kernel.MOUNT_NOSUID | kernel.MOUNT_NODEV
        try:
            source = path_of(path)
            kernel.mount("cape", target, "overlay", read_only, f"lowerdir={source}:{scratch}/void,userxattr")
            os.close(int(os.path.basename(source)))
        except OSError as error:
            self.said["locks"] = str(error)
            kernel.bind(path, target)
            kernel.mount_attr(target, read_only)

    def attend(self, pid: int) -> None:
        """Serves the runtime's messages and buries the dead until the worker is one of them."""
        wake, sleeping = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(sleeping, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(wake, select.POLLIN)
        while True:
            status = bury(pid)
            if status is not None:
                break
            ready = [fd for fd, _ in poll.poll()]
            if wake in ready:
                os.read(wake, 4096)
            if self.control.fileno() in ready and not self.serve():
                break  # the runtime wants the end, or is gone
        if self.plain:
            kill_children()
        if status is not None:
            ended = {"ended": True, "code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0}
            ended["signal"] = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            self.control.send(json.dumps(ended).encode())
        os._exit(0)

    def serve(self) -> bool:
        message, fds, _, _ = socket.recv_fds(self.control, 64 * 1024, 1)
        if not message:
            return False
        answer: dict[str, str] = {}
        try:
            self.furnish(json.loads(message), fds)
        except OSError as error:
            answer["error"] = str(error)
        self.control.send(json.dumps(answer).encode())
        return True

    def furnish(self, order: dict[str, Any], fds: list[int]) -> None:
        """Puts the function's folder in its place, and lets go of all that is needed for it."""
        base = os.path.join(self.order["dir"], "function") if self.plain else "/function"
        place = os.path.join(base, order["name"])
        os.mkdir(place)
        if self.plain:
            own(place, self.order["id"])
            own(os.path.join(self.order["dir"], "tmp"), self.order["id"])
        upper, uid = ("/" + SCRATCH + "/upper", INNER) if not self.plain else (place, self.order["id"])
        tree = os.path.join(self.setup["trees"] if self.plain else "/" + TREES, order["tree"])
        if not self.plain and order["scratch"] != self.setup["scratch"]:
            kernel.mount("cape", "/" + SCRATCH, "tmpfs", kernel.MS_REMOUNT | kernel.MS_NOSUID | kernel.MS_NODEV, room(order["scratch"]))
        if order["tree"] and not order["copy"]:
            os.chdir(tree)  # so that no name in it can be taken for an option
            work = f"upperdir={upper},workdir=/{SCRATCH}/work,userxattr"
            kernel.mount("cape", place, "overlay", kernel.MS_NOSUID | kernel.MS_NODEV, "lowerdir=.," + work)
        elif order["tree"]:
            copy_tree(tree, upper, uid)
        if not self.plain and (order["copy"] or not order["tree"]):
            kernel.bind(upper, place, recursive=False)
        if fds:
            os.chdir(base)  # by way of the folder: the path of a socket is short
            with socket.socket(fileno=fds[0]) as listener:
                listener.bind("rpc.sock")
                os.chmod("rpc.sock", 0o666)
                listener.listen(16)
        os.chdir("/")
        if not self.plain:
            kernel.mount_attr("/function", kernel.MOUNT_RDONLY, recursive=False)
            kernel.detach("/" + TREES)
            kernel.detach("/" + SCRATCH)
            kernel.set_capabilities(0)


def path_of(path: str) -> str:
    """A way to a folder that stays, whatever is mounted over it, and has no character that is an option's."""
    return f"/proc/self/fd/{os.open(path, os.O_PATH | os.O_CLOEXEC)}"


def room(size: int) -> str:
    """A file system's limits: bytes, and as many files and folders as have a page each."""
    return f"size={size},nr_inodes={max(size // 4096, 1024)}"


def own(path: str, uid: int) -> None:
    if uid >= 0:
        os.chown(path, uid, uid)


def copy_tree(source: str, target: str, uid: int) -> None:
    """Copies files and folders; an unpacked function has nothing else."""
    for entry in os.scandir(source):
        to = os.path.join(target, entry.name)
        if entry.is_dir(follow_symlinks=False):
            os.mkdir(to, 0o755)
            copy_tree(entry.path, to, uid)
        elif entry.is_file(follow_symlinks=False):
            with open(entry.path, "rb") as old, open(to, "xb") as new:
                while os.sendfile(new.fileno(), old.fileno(), None, 1 << 30):
                    pass
        else:
            raise OSError(22, f"neither a file nor a folder: {entry.name}")
        own(to, uid)


def bury(pid: int) -> int | None:
    """Collects the dead; returns how the worker ended once it did."""
    try:
        while True:
            dead, status = os.waitpid(-1, os.WNOHANG)
            if dead == pid:
                return status
            if dead == 0:
                return None
    except ChildProcessError:
        return None


def kill_children() -> None:
    """Ends every process that this one started or inherited; what they leave behind becomes its own."""
    while True:
        try:
            with open("/proc/thread-self/children", encoding="ascii") as file:
                for child in file.read().split():
                    os.kill(int(child), signal.SIGKILL)
            os.waitpid(-1, 0)
        except (ChildProcessError, ProcessLookupError):
            return


def limit(kind: int, value: int) -> None:
    """Lowers a limit of this process and its children for ever."""
    _, most = resource.getrlimit(kind)
    if most != resource.RLIM_INFINITY:
        value = min(value, most)
    resource.setrlimit(kind, (value, value))


def confine(keeper: Keeper, fds: list[int]) -> None:
    """Is the worker, to its end."""
    setup, order = keeper.setup, keeper.order
    status = 1
    try:
        os.setsid()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for fd in fds]
        null = os.open("/dev/null", os.O_RDONLY)
        for place, fd in enumerate((null, high[2], high[3], high[0], high[1])):
            os.dup2(fd, place)
        kernel.close_from(5)
        # Descriptors on their way through a socket are counted for all who have this user, against the limit of who sends some more.
        files = min(MAX_FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 4)
        for kind, value in ((resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, files), (resource.RLIMIT_MEMLOCK, LOCKED),
                            (resource.RLIMIT_MSGQUEUE, 0), (resource.RLIMIT_SIGPENDING, PENDING), (resource.RLIMIT_NICE, 0), (resource.RLIMIT_RTPRIO, 0)):
            limit(kind, value)
        kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
        if setup["landlock"]:
            show = setup["show"] if keeper.plain else ["/"]
            write = [order["dir"]] if keeper.plain else ["/function", "/tmp", "/dev/shm"]
            kernel.landlock(setup["landlock"], show, write, ["/dev/" + d for d in ("null", "zero", "full", "random", "urandom")])
        drop_privileges(keeper)
        setup["filter"].install()
        channel = worker.Channel()
        channel.send(b"r")
        while (frame := channel.receive()) is not None:
            if frame[0] == b"k":  # looked at; from here on nobody inside may look
                kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
                channel.send(b"k")
            else:
                status = 0
                go(channel, json.loads(frame[1]))
                break
    except BaseException as error:
        os.write(4, b"f" + len(str(error)).to_bytes(4, "big") + str(error).encode())
    finally:
        worker.flush()
        os._exit(status)


def drop_privileges(keeper: Keeper) -> None:
    try:
        kernel.drop_bounding()
    except PermissionError:
        if not keeper.plain:
            raise  # who may not do this has, as a rule, nothing to drop
    uid = INNER if not keeper.plain else keeper.order["id"]
    if uid >= 0 and os.getuid() != uid:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    kernel.set_capabilities(0)


def go(channel: worker.Channel, order: dict[str, Any]) -> None:
    """Everything is in force: becomes what the order says."""
    for name, value in order["limits"].items():
        limit(getattr(resource, "RLIMIT_" + name), value)
    os.environ.update(HOME=order["tmp"], TMPDIR=order["tmp"])
    os.chdir(order["dir"])
    if order["mute"]:
        null = os.open("/dev/null", os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        os.close(null)
    else:
        sys.stdout.reconfigure(line_buffering=True)  # whoever looks on sees a line when it is printed
    if order["check"]:
        check.main(channel)
    else:
        worker.main(channel, order["output"])
