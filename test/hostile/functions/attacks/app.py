"""Attacks by name. Each says what came of it: the name of the error that refused it, or what it got.

An attack that does nothing but one system call stands in calls.py; the others in the module of
their kind. An input is JSON: {"attack", "mark", "args"}.
"""

from __future__ import annotations

import json

import calls
import carry
import files
import machine
import processes
import resources
import rpc

KINDS = {"call": calls.run, "files": files.run, "processes": processes.run, "resources": resources.run, "carry": carry.run, "rpc": rpc.run}


def cape_handler(data: bytes) -> bytes:
    order = json.loads(data)
    mark(order["mark"])
    kind, _, name = order["attack"].partition(":")
    try:
        return KINDS[kind](name, order.get("args", {})).encode()
    except OSError as error:
        return machine.refusal(error).encode()


def mark(name: str) -> None:
    """Names this process and what it forks, so that the battery finds what is left of them."""
    machine.call("prctl", 15, name.encode())
