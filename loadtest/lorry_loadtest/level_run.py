"""What was observed at one level of load: its records, its window and the facts around them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from lorry_loadtest.records import RequestRecord
from lorry_loadtest.run_facts import RunFacts
from lorry_loadtest.server_steps import ServerStep, read_steps


@dataclass(frozen=True, kw_only=True)
class LevelRun:
    """One level of a sweep, or a whole run of one.

    Nanoseconds as in the records: users start at `start_ns`, the window W runs from
    `window_start_ns` to `window_end_ns`, and the last answer had come by `drained_ns`.
    `client_cpu_share` is this process's share of one core during the window. In an open loop
    `rate_per_s` was offered and `concurrency` is the most streams at once. `descending` marks a
    level that is measured again on the way down, and `stream` tells which of the run's seeded streams
    was sent. `parts` are the same of each user class by itself,
    where there are several: its records, and what it meant to send; `name` is then its scenario.
    What follows from the records is computed once:
    figures, checks and pictures all ask for it.
    """

    concurrency: int
    start_ns: int
    window_start_ns: int
    window_end_ns: int
    drained_ns: int
    client_cpu_share: float
    records: tuple[RequestRecord, ...]
    rate_per_s: float | None = None
    descending: bool = False
    stream: int | None = None
    facts: RunFacts = field(default_factory=RunFacts)
    name: str = ""
    parts: tuple[LevelRun, ...] = ()

    @property
    def window_s(self) -> float:
        return (self.window_end_ns - self.window_start_ns) / 1e9

    @cached_property
    def cohort(self) -> tuple[RequestRecord, ...]:
        """The requests that became ready inside the window, in the order of their schedule."""
        inside = [record for record in self.measured if self.contains(record.t_sched_ns)]
        return tuple(sorted(inside, key=lambda record: record.t_sched_ns))

    @cached_property
    def measured(self) -> tuple[RequestRecord, ...]:
        """All attempts of the run itself, warm-up and drain included."""
        return tuple(record for record in self.records if record.phase == "run")

    @cached_property
    def steps(self) -> tuple[ServerStep, ...]:
        """The server's step log, in the order of time; empty when it offers none."""
        return read_steps(self.facts.observations.steps)

    def contains(self, stamp_ns: int) -> bool:
        return self.window_start_ns <= stamp_ns < self.window_end_ns

    def cut(self, warm_up_ns: int) -> LevelRun:
        """The same with a window that begins so much later."""
        return replace(self, window_start_ns=self.window_start_ns + warm_up_ns)
