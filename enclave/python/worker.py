"""Imports a function and calls it, once for each input of a connection.

Runs inside the jail, as the same user as the function: nothing here is out of
the function's reach, and the runtime believes nothing that comes from here
further than the function may be believed. Descriptor 3 brings frames, 4 takes
them: a kind (1 byte), a length (4 bytes, big-endian), that many bytes.

Before that, jail.py has its say. From the runtime: ``i`` a piece of the input, ``c`` call the handler, ``d``
forget the input. To it: ``l`` the function is imported, ``o`` a piece of the
result, ``e`` its end, ``x`` an exception, ``m`` out of memory, ``t`` the result
is too large.

Only modules that an interpreter has anyway are imported here: what the function
imports is its own choice, and starting must be quick.
"""

from __future__ import annotations

import builtins
import io
import os
import sys

TYPE_CHECKING = False  # importing typing takes longer than starting the interpreter
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Callable, Union

    Buffer = Union[bytes, bytearray, memoryview]

IN, OUT = 3, 4
CHUNK = 256 * 1024
SMALL = 64 * 1024  # results up to here go out in one write
MAX_TYPE, MAX_MESSAGE, MAX_TRACEBACK = 256, 4096, 11 * 1024


class Channel:
    """The frames to and from the runtime."""

    def __init__(self) -> None:
        for fd in (IN, OUT):
            os.set_inheritable(fd, False)
        self._reader = open(IN, "rb", buffering=SMALL, closefd=False)  # noqa: SIM115

    def receive(self) -> tuple[bytes, bytes] | None:
        """Returns the kind and content of the next frame, None at the end."""
        head = self._reader.read(5)
        if len(head) < 5:
            return None
        size = int.from_bytes(head[1:], "big")
        body = self._reader.read(size) if size else b""
        return (head[:1], body) if len(body) == size else None

    def send(self, kind: bytes, body: Buffer = b"") -> None:
        head = kind + len(body).to_bytes(4, "big")
        if len(body) <= SMALL:
            self._write(head + body)
        else:
            self._write(head)
            self._write(body)

    def send_result(self, data: Buffer) -> None:
        end = b"e" + bytes(4)
        if len(data) <= SMALL:
            self._write((b"o" + len(data).to_bytes(4, "big") + data if data else b"") + end)
            return
        view = memoryview(data)
        for start in range(0, len(view), CHUNK):
            self.send(b"o", view[start : start + CHUNK])
        self._write(end)

    @staticmethod
    def _write(data: Buffer) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(OUT, view) :]


def clip(text: str, limit: int) -> bytes:
    """Encodes text, keeping its beginning and, above all, its end."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= limit:
        return data
    head = limit // 4
    return data[:head] + b"\n[...]\n" + data[-(limit - head - 7) :]


def own_frames_removed(trace: TracebackType | None) -> TracebackType | None:
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return trace


def describe(error: BaseException) -> bytes:
    """Packs type, message and traceback, each behind its length."""
    kind = type(error)
    try:
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    except BaseException:
        name = "Exception"
    try:
        message = str(error)
    except BaseException:
        message = "<the exception's text could not be made>"
    try:
        import traceback

        lines = traceback.format_exception(kind, error, own_frames_removed(error.__traceback__))
        trace = "".join(lines)
    except BaseException:
        trace = f"{name}: <the traceback could not be made>\n"
    packed = b""
    for text, limit in ((name, MAX_TYPE), (message, MAX_MESSAGE), (trace, MAX_TRACEBACK)):
        data = clip(text, limit)
        packed += len(data).to_bytes(4, "big") + data
    return packed


def report(channel: Channel, error: BaseException) -> None:
    if isinstance(error, MemoryError):
        channel.send(b"m")
    else:
        channel.send(b"x", describe(error))


def load() -> Callable[[bytes], Any]:
    """Imports app.py from the working directory, as a script there would see it."""
    import _sitebuiltins

    for name in ("exit", "quit"):
        setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D"))
    sys.argv = ["app.py"]
    sys.path.insert(0, os.getcwd())
    handler: Callable[[bytes], Any] = __import__("app").cape_handler
    if not callable(handler):
        raise TypeError(f"cape_handler is not callable: it is of type {type(handler).__name__}")
    return handler


class Awaiter:
    """Runs handlers that are coroutines, all in one event loop."""

    def __init__(self) -> None:
        self._loop: Any = None

    def __call__(self, result: Any) -> Any:
        if not hasattr(type(result), "__await__"):
            return result
        import asyncio

        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)

        async def wait() -> Any:
            return await result

        return self._loop.run_until_complete(wait())


def as_bytes(result: Any) -> Buffer:
    """Bytes pass through; everything else, None too, becomes its str()."""
    if isinstance(result, bytes):
        return result
    if isinstance(result, (bytearray, memoryview)):
        return bytes(result)
    return str(result).encode()


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:
            pass


def call(channel: Channel, handler: Callable[[bytes], Any], wait: Awaiter, inputs: list[bytes], limit: int) -> None:
    try:
        # Popped, so that a handler that lets go of its input frees it.
        result = as_bytes(wait(handler(inputs.pop())))
    except BaseException as error:
        flush()
        report(channel, error)
        return
    flush()
    if len(result) > limit:
        channel.send(b"t")
    else:
        channel.send_result(result)


def main(channel: Channel, limit: int) -> None:
    try:
        handler = load()
    except BaseException as error:
        flush()
        report(channel, error)
        while channel.receive() is not None:
            pass
        return
    flush()
    channel.send(b"l")
    wait = Awaiter()
    pieces = io.BytesIO()
    short = False  # memory ran out while the input came in
    while (frame := channel.receive()) is not None:
        kind, body = frame
        if kind == b"i" and not short:
            try:
                pieces.write(body)
            except MemoryError:
                pieces, short = io.BytesIO(), True
        elif kind == b"d":
            pieces, short = io.BytesIO(), False
        elif kind == b"c":
            inputs = [pieces.getvalue()]
            pieces = io.BytesIO()
            if short:
                channel.send(b"m")
            else:
                call(channel, handler, wait, inputs, limit)
            short = False
