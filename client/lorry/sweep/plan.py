"""How long each point of a study is measured, and which of its requests count."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lorry.sweep.point import PointSetting

DEFAULT_REQUESTS = 100
OPEN_LOOP_WARMUP = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """A number of requests or a duration, one of them None, and how many come before it.

    `warmup` None is one request for each that is in flight, or 16 in an open loop.
    """

    requests_per_point: int | None
    duration_s: float | None
    warmup: int | None

    def num_warmup(self, setting: PointSetting) -> int:
        if self.warmup is not None:
            return self.warmup
        return OPEN_LOOP_WARMUP if setting.concurrency is None else setting.concurrency


def read_plan(
    *, requests_per_point: int | None, duration_s: float | None, warmup: int | None
) -> Plan:
    """Raises ValueError that names what is wrong; without either size, 100 requests a point."""
    if requests_per_point is not None and duration_s is not None:
        raise ValueError("a point has requests_per_point or duration_s: give one")
    if duration_s is not None and not (math.isfinite(duration_s) and duration_s > 0):
        raise ValueError(f"duration_s is {duration_s}; it must be a positive number of seconds")
    if requests_per_point is not None and requests_per_point < 1:
        raise ValueError(f"requests_per_point is {requests_per_point}; it must be at least 1")
    if warmup is not None and warmup < 0:
        raise ValueError(f"warmup is {warmup}; it must be 0 requests or more")
    if requests_per_point is None and duration_s is None:
        requests_per_point = DEFAULT_REQUESTS
    return Plan(requests_per_point, duration_s, warmup)
