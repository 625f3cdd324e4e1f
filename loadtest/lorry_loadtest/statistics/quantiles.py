"""Exact quantiles of raw samples."""

from __future__ import annotations

import math
from collections.abc import Sequence


def quantile(ordered: Sequence[float], q: float) -> float:
    """The q-quantile with linear interpolation: type 7 of Hyndman and Fan (1996).

    `ordered` ascends and is not empty; q lies in 0..1.
    """
    assert ordered
    position = (len(ordered) - 1) * q
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def samples_needed(q: float) -> int:
    """The fewest samples with which the q-quantile is shown: ten of them lie beyond it."""
    return math.ceil(round(10 / (1 - q), 6))
