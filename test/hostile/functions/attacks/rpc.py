"""Attacks on the runtime by what a function may ask it: cape_encrypt."""

from __future__ import annotations

import base64
import json
import socket
import time

HEAD = b'{"id":1,"method":"CapeEncryptRPC.Encrypt","params":["'
SECONDS = 30


def run(name: str, args: dict[str, str]) -> str:
    return {"large": large, "trickle": trickle, "many": many, "endless": endless}[name](args)


def connect() -> socket.socket:
    s = socket.socket(socket.AF_UNIX)
    s.connect("../rpc.sock")
    return s


def answer(s: socket.socket) -> str:
    data = b""
    while piece := s.recv(1 << 20):
        data += piece
    reply = json.loads(data)
    return "done" if reply["error"] is None else str(reply["error"])


def large(_: dict[str, str]) -> str:
    """Asks as an honest function does."""
    with connect() as s:
        s.sendall(HEAD + base64.b64encode(bytes(2 << 20)) + b'"]}')
        return answer(s)


def trickle(_: dict[str, str]) -> str:
    """Begins large requests and goes on as slowly as it may."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            with connect() as s:
                s.sendall(HEAD + b"A" * (300 << 10))
                while time.monotonic() < end:
                    s.sendall(b"A")
                    time.sleep(0.3)
        except OSError:
            pass
    return "nothing"


def many(_: dict[str, str]) -> str:
    """One request with millions of parameters."""
    with connect() as s:
        s.sendall(HEAD + b'"' + b',""' * (6 << 20) + b"]}")
        return answer(s)[:9]


def endless(_: dict[str, str]) -> str:
    """One request without an end."""
    with connect() as s:
        try:
            s.sendall(HEAD)
            for _ in range(64):
                s.sendall(b"A" * (1 << 20))
        except OSError:
            return "refused"
        return answer(s)[:9]
