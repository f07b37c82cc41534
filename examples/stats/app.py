"""Summarises numbers that nobody but their owner may see."""

import json

from summary import describe


def cape_handler(data: bytes) -> str:
    return json.dumps(describe(json.loads(data)), sort_keys=True)
