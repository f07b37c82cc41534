"""A dependency that travels in the function's folder, as vendored packages do."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median, pstdev


def describe(numbers: Sequence[float]) -> dict[str, float]:
    """Count, mean, median and spread of numbers."""
    if not numbers:
        raise ValueError("there are no numbers to summarise")
    return {
        "count": len(numbers),
        "mean": round(fmean(numbers), 6),
        "median": median(numbers),
        "stdev": round(pstdev(numbers), 6),
    }
