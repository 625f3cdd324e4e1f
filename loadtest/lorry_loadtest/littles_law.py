"""Little's law as a check on the records: concurrency is rate times time."""

from __future__ import annotations

import msgspec

from lorry_loadtest.level_run import LevelRun


class LittlesLaw(msgspec.Struct, frozen=True, kw_only=True):
    """`mean_in_flight` is the area of all requests inside the window over its length.

    `rate_per_s` times `mean_time_s` should be the same: requests that ended in the window, and how
    long those stayed. They differ when the window is not steady or a record is missing.
    """

    mean_in_flight: float
    rate_per_s: float
    mean_time_s: float

    @property
    def product(self) -> float:
        return self.rate_per_s * self.mean_time_s

    @property
    def relative_error(self) -> float:
        return abs(self.product - self.mean_in_flight) / self.mean_in_flight


def littles_law(run: LevelRun) -> LittlesLaw | None:
    """None when nothing was in flight, or nothing ended, inside the window."""
    area_ns = num_ended = time_ns = 0
    for record in run.measured:
        begin = max(record.t_sched_ns, run.window_start_ns)
        end = min(record.t_end_ns, run.window_end_ns)
        area_ns += max(0, end - begin)
        if run.contains(record.t_end_ns):
            num_ended += 1
            time_ns += record.t_end_ns - record.t_sched_ns
    if not area_ns or not num_ended:
        return None
    return LittlesLaw(
        mean_in_flight=area_ns / (run.window_end_ns - run.window_start_ns),
        rate_per_s=num_ended / run.window_s,
        mean_time_s=time_ns / num_ended / 1e9,
    )
