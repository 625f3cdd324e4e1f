"""Where a series has settled, and whether its two halves still differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_BATCH = 5
_NUM_BATCHES = 10  # of each half, for the standard error of its mean


def warm_up_cut(values: Sequence[float]) -> int | None:
    """How many leading values to drop: MSER-5 (White, 1997; White and Spratt, 2000).

    It minimises the squared standard error of the mean of what is left, over means of five. None
    when the series is too short, or when the minimum lies in the second half: it never settled.
    """
    batches = [
        math.fsum(values[i : i + _BATCH]) / _BATCH
        for i in range(0, len(values) - _BATCH + 1, _BATCH)
    ]
    n = len(batches)
    if n < 4:
        return None
    best, best_error = 0, math.inf
    total = squares = 0.0
    # from the end, so that sums grow by one value at a time
    centre = math.fsum(batches) / n
    for start in range(n - 1, -1, -1):
        value = batches[start] - centre
        total += value
        squares += value * value
        left = n - start
        if start > n // 2 or left < 2:
            continue
        error = max(0.0, squares - total * total / left) / (left * left)
        if error <= best_error:
            best, best_error = start, error
    if best >= n // 2 and best > 0:
        return None
    return best * _BATCH


@dataclass(frozen=True, slots=True)
class Drift:
    """Second half over first half, minus 1; `significance` is how many standard errors that is."""

    relative: float
    significance: float


def drift(values: Sequence[float]) -> Drift | None:
    """The difference of a series' halves; None with fewer than twenty values in each."""
    middle = len(values) // 2
    halves = (values[:middle], values[middle:])
    if middle < 2 * _NUM_BATCHES:
        return None
    means = [math.fsum(half) / len(half) for half in halves]
    error = math.sqrt(sum(_squared_error(half) for half in halves))
    difference = means[1] - means[0]
    if means[0] == 0.0:
        return None
    if error == 0.0:
        return Drift(difference / means[0], 0.0 if difference == 0.0 else math.inf)
    return Drift(difference / means[0], abs(difference) / error)


def _squared_error(values: Sequence[float]) -> float:
    """Of the mean, from batch means, since neighbours depend on each other."""
    size = len(values) // _NUM_BATCHES
    means = [
        math.fsum(values[start : start + size]) / size
        for start in range(0, size * _NUM_BATCHES, size)
    ]
    mean = math.fsum(means) / _NUM_BATCHES
    variance = math.fsum((value - mean) ** 2 for value in means) / (_NUM_BATCHES - 1)
    return variance / _NUM_BATCHES
