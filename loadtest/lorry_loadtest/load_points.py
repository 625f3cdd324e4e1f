"""The loads of a sweep: `concurrency:1..64:log2`, upwards and then down again."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from lorry_loadtest.level_run import LevelRun

MAX_STREAMS = 10_000
_MAX_POINTS = 64
_SWEEP = re.compile(r"(concurrency|rate):(\d+(?:\.\d+)?)\.\.(\d+(?:\.\d+)?):(log2|\+\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """A number of streams in a closed loop, or arrivals per second in an open one; not both.

    `index` counts the points of a run, so that no two of them send the same prompts.
    """

    concurrency: int | None = None
    rate_per_s: float | None = None
    descending: bool = False
    index: int = 0

    def __post_init__(self) -> None:
        assert (self.concurrency is None) != (self.rate_per_s is None)

    def __str__(self) -> str:
        if self.rate_per_s is not None:
            return f"{self.rate_per_s:g} req/s"
        return "1 stream" if self.concurrency == 1 else f"{self.concurrency} streams"


# Runs one point to its end, drain included. KeyboardInterrupt ends the whole run.
Measure = Callable[[LoadPoint], LevelRun]


def parse_sweep(text: str) -> tuple[LoadPoint, ...]:
    """Reads `concurrency:LOW..HIGH:log2` or `rate:LOW..HIGH:+STEP`; ValueError says what is wrong.

    The points below the top one come again on the way down, which shows hysteresis.
    """
    match = _SWEEP.fullmatch(text.replace(" ", ""))
    if match is None:
        raise ValueError(
            f"{text!r} is not a sweep; write for example concurrency:1..64:log2, "
            "concurrency:4..32:+4 or rate:1..8:+0.5"
        )
    kind, low_text, high_text, step = match.groups()
    low, high = float(low_text), float(high_text)
    if not 0 < low <= high:
        raise ValueError(
            f"{text!r} goes from {low:g} to {high:g}, which is not upwards from over 0"
        )
    values = _values(low, high, step)
    if len(values) > _MAX_POINTS:
        raise ValueError(f"{text!r} has {len(values)} points; at most {_MAX_POINTS} are run")
    if kind == "concurrency" and (any(value % 1 for value in values) or high > MAX_STREAMS):
        raise ValueError(f"{text!r}: numbers of streams are whole and at most {MAX_STREAMS}")
    upwards = [
        LoadPoint(concurrency=int(value)) if kind == "concurrency" else LoadPoint(rate_per_s=value)
        for value in values
    ]
    downwards = [replace(point, descending=True) for point in reversed(upwards[:-1])]
    return tuple(replace(point, index=index) for index, point in enumerate([*upwards, *downwards]))


def _values(low: float, high: float, step: str) -> list[float]:
    values = [low]
    while values[-1] < high and len(values) <= _MAX_POINTS:
        larger = values[-1] * 2 if step == "log2" else values[-1] + float(step[1:])
        if larger <= values[-1]:
            raise ValueError(f"a step of {step} goes nowhere")
        values.append(min(larger, high))
    return values
