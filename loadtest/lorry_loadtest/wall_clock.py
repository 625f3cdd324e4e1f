"""The kernel stamps with the wall clock, we count with the monotonic one: the difference, followed.

The wall clock is slewed all the time and now and then set, so the difference is sampled again
through the whole run, and what was found is kept for the report.
"""

from __future__ import annotations

import time

from lorry_loadtest.observations import ClockSample

_FRESH_NS = 100_000_000
_KEPT_EVERY_NS = 1_000_000_000
_TRIES = 3


class WallClock:
    """Owned by the thread that takes the stamps; `samples` may be read from any."""

    def __init__(self) -> None:
        self.samples: list[ClockSample] = []
        self.offset_ns = 0
        self._sampled_ns = 0
        self.refresh(time.perf_counter_ns())

    def refresh(self, now_ns: int) -> None:
        """Samples again where the last sample is older than a tenth of a second."""
        if now_ns - self._sampled_ns < _FRESH_NS:
            return
        self._sampled_ns = now_ns
        self.offset_ns = offset_now_ns()
        if not self.samples or now_ns - self.samples[-1].t_ns >= _KEPT_EVERY_NS:
            self.samples.append(ClockSample(now_ns, self.offset_ns))


def offset_now_ns() -> int:
    """CLOCK_REALTIME less the monotonic clock, from the narrowest of a few bracketed reads."""
    best_offset_ns, best_width_ns = 0, -1
    for _ in range(_TRIES):
        before_ns = time.perf_counter_ns()
        wall_ns = time.time_ns()
        after_ns = time.perf_counter_ns()
        if best_width_ns < 0 or after_ns - before_ns < best_width_ns:
            best_width_ns = after_ns - before_ns
            best_offset_ns = wall_ns - (before_ns + after_ns) // 2
    return best_offset_ns
