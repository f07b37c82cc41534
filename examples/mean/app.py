"""Keeps a running mean over the inputs of one connection; the next connection starts empty."""

import json

numbers: list[float] = []


def cape_handler(data: bytes) -> str:
    numbers.append(float(data))
    return json.dumps({"count": len(numbers), "mean": sum(numbers) / len(numbers)})
