"""Finds the highest rate of arrivals at which every objective holds, and confirms it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.load_points import LoadPoint, Measure
from lorry_loadtest.slo import Objective
from lorry_loadtest.summary import LevelSummary, summarize

START_PER_S = 1.0
RESOLUTION = 0.05
CONFIRMED_SHARE = 0.9

TOO_FEW = "too few requests to tell"

_MOST_DOUBLINGS = 12
_FAILED_SHARE = 0.01


class FoundMax(msgspec.Struct, frozen=True, kw_only=True):
    """The search's answer. Rates are arrivals per second.

    Every objective held at `rate_per_s` (0 when it held nowhere) and not at `missed_per_s` (None
    when it held everywhere that was tried), for the reason `limited_by`. `is_confirmed` tells
    whether a fresh run at nine tenths of the rate held as well.
    """

    rate_per_s: float
    missed_per_s: float | None
    limited_by: str
    tokens_per_s: float
    confirmed_at_per_s: float | None
    is_confirmed: bool


def find_max(
    measure: Measure, objectives: Sequence[Objective], *, start_per_s: float = START_PER_S
) -> tuple[FoundMax, list[LevelRun]]:
    """Doubles the open-loop rate until an objective breaks, halves the bracket, then confirms.

    Returns the answer and every run in the order they were made. `objectives` is not empty.
    """
    assert objectives
    search = _Search(measure, objectives)
    low, high = search.bracket(start_per_s)
    while high is not None and low > 0 and high / low > 1 + RESOLUTION:
        middle = (low * high) ** 0.5
        if search.holds(middle):
            low = middle
        else:
            high = middle
    confirmed = CONFIRMED_SHARE * low if low > 0 else None
    best = search.summaries.get(low)
    return (
        FoundMax(
            rate_per_s=low,
            missed_per_s=high,
            limited_by=search.reasons.get(high, "") if high is not None else "",
            tokens_per_s=best.output_tokens_per_s if best else 0.0,
            confirmed_at_per_s=confirmed,
            is_confirmed=confirmed is not None and search.holds(confirmed),
        ),
        search.runs,
    )


class _Search:
    """Measures rates and remembers what each gave."""

    def __init__(self, measure: Measure, objectives: Sequence[Objective]) -> None:
        self._measure = measure
        self._objectives = objectives
        self.runs: list[LevelRun] = []
        self.summaries: dict[float, LevelSummary] = {}
        self.reasons: dict[float, str] = {}

    def bracket(self, start_per_s: float) -> tuple[float, float | None]:
        """A rate that holds and one that does not, at most a factor of two apart.

        A rate with too few requests to tell is too low to begin with. Where the lowest rate that
        can be told of does not hold, nothing below it is claimed: the first number is then 0.
        """
        rate = start_per_s
        for _ in range(_MOST_DOUBLINGS):
            if self.holds(rate) or self.reasons[rate] != TOO_FEW:
                break
            rate *= 2
        if rate not in self.reasons:
            return self._upwards(rate)
        return self._downwards(rate)

    def _upwards(self, rate: float) -> tuple[float, float | None]:
        for _ in range(_MOST_DOUBLINGS):
            if not self.holds(2 * rate):
                return rate, 2 * rate
            rate *= 2
        return rate, None

    def _downwards(self, rate: float) -> tuple[float, float | None]:
        for _ in range(_MOST_DOUBLINGS):
            lower = rate / 2
            if lower in self.summaries:
                return 0.0, rate  # on the way up there were too few requests to tell
            if self.holds(lower):
                return lower, rate
            if self.reasons[lower] == TOO_FEW:
                return 0.0, rate
            rate = lower
        return 0.0, rate

    def holds(self, rate_per_s: float) -> bool:
        run = self._measure(LoadPoint(rate_per_s=rate_per_s, index=len(self.runs)))
        self.runs.append(run)
        summary = summarize(run, objectives=self._objectives)
        self.summaries[rate_per_s] = summary
        reason = why_not(summary)
        if reason is not None:
            self.reasons[rate_per_s] = reason
        return reason is None


def why_not(summary: LevelSummary) -> str | None:
    """What keeps a level from meeting its objectives, in a few words; None when all hold.

    A server that falls behind fails too, since its latencies only grow with the length of the run.
    """
    for result in summary.objectives:
        if result.met is False:
            return f"{result.objective.metric.upper()} {result.objective.statistic}"
    failed = summary.num_failed / max(1, sum(summary.ledger.values()))
    if failed > _FAILED_SHARE:
        return f"{failed:.0%} failed"
    if any(result.met is None for result in summary.objectives):
        return TOO_FEW
    if summary.falls_behind:
        return "the server falls behind"
    return None
