"""Judges each limit of a gate on paired requests: kept, broken, or not to be told from this run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec
import numpy as np

from lorry_loadtest.gate.limit import GateLimit, GateStatistic
from lorry_loadtest.gate.pairing import Pairs, pair
from lorry_loadtest.request_figures import RequestFigures
from lorry_loadtest.slo import Objective
from lorry_loadtest.statistics.bootstrap import RatioEstimate, Values, paired_ratio
from lorry_loadtest.statistics.quantiles import samples_needed

GateStatus = Literal["pass", "regression", "undecided"]

CONFIDENCE = 0.975  # of each bound: 95 % for the interval
EXIT_REGRESSION = 1
EXIT_UNDECIDED = 3


class GatedRun(msgspec.Struct, frozen=True, kw_only=True):
    """One side: the requests of a level, over `window_s` seconds.

    `concurrency` is the number of users of a closed loop, None of an open one.
    """

    figures: RequestFigures
    window_s: float
    concurrency: int | None = None


class GateResult(msgspec.Struct, frozen=True, kw_only=True):
    """`ratio` is candidate over baseline, with its 95 % interval.

    `power` is the chance that a run like this one, unchanged, shows that it kept the limit. Values
    are milliseconds, good requests or tokens per second.
    """

    limit: GateLimit
    status: GateStatus
    baseline: float
    candidate: float
    ratio: float
    low: float
    high: float
    power: float
    num_pairs: int
    reason: str


def judge_gate(
    baseline: GatedRun,
    candidate: GatedRun,
    limits: Sequence[GateLimit],
    *,
    objectives: tuple[Objective, ...] = (),
) -> tuple[GateResult, ...]:
    """One result per limit. Raises NotComparable when the runs are not of the same stream."""
    pairs = pair(baseline.figures, candidate.figures)
    return tuple(
        _judge(limit, pairs, baseline, candidate, objectives=objectives) for limit in limits
    )


def gate_exit_code(results: Sequence[GateResult]) -> int:
    """1 for a regression, 3 when the run cannot tell, 0 when every limit was shown to be kept."""
    statuses = {result.status for result in results}
    if "regression" in statuses:
        return EXIT_REGRESSION
    return EXIT_UNDECIDED if "undecided" in statuses else 0


def _judge(
    limit: GateLimit,
    pairs: Pairs,
    baseline: GatedRun,
    candidate: GatedRun,
    *,
    objectives: tuple[Objective, ...],
) -> GateResult:
    if limit.statistic is None:
        return _judge_rate(limit, pairs, baseline, candidate, objectives=objectives)
    statistic, needed = _statistic(limit.statistic)
    a, b = (np.array(side) for side in pairs.latencies(limit))
    if len(a) < needed:
        return _undecidable(limit, len(a), f"{len(a)} pairs, {needed} are needed")
    estimate = paired_ratio(a, b, statistic, series=b - a)
    return _result(limit, estimate, statistic(a), statistic(b), num_pairs=len(a))


def _judge_rate(
    limit: GateLimit,
    pairs: Pairs,
    baseline: GatedRun,
    candidate: GatedRun,
    *,
    objectives: tuple[Objective, ...],
) -> GateResult:
    """What the requests gave over the time that they stand for.

    In an open loop each stands for the same share of the window. In a closed one a faster server is
    asked for more, and the pairs are only what both runs got to; there each request stands for its
    own duration over the number of users.
    """
    amounts = np.array(pairs.good(objectives) if limit.metric == "goodput" else pairs.tokens())
    durations = np.array(pairs.durations_s())
    a, b = (
        np.column_stack([amount, _times(run, duration)])
        for run, amount, duration in zip((baseline, candidate), amounts, durations, strict=True)
    )
    if not _rate(a) > 0.0:
        return _undecidable(limit, len(a), "the baseline is zero")
    first, second = amounts if baseline.concurrency is None else durations
    estimate = paired_ratio(a, b, _rate, series=second - first)
    return _result(limit, estimate, _rate(a), _rate(b), num_pairs=len(a))


def _times(run: GatedRun, durations_s: Values) -> Values:
    if run.concurrency is None:
        return np.full_like(durations_s, run.window_s / len(run.figures.index))
    return durations_s / run.concurrency


def _rate(values: Values) -> float:
    """Of rows of an amount and a time: amounts over times; 0 when there was no time."""
    amount, time_s = np.ones(len(values)) @ values  # many times faster than `sum` over rows
    return float(amount / time_s) if time_s else 0.0


def _result(
    limit: GateLimit,
    estimate: RatioEstimate,
    baseline: float,
    candidate: float,
    *,
    num_pairs: int,
) -> GateResult:
    status, reason = _decide(limit, estimate)
    return GateResult(
        limit=limit,
        status=status,
        baseline=baseline,
        candidate=candidate,
        ratio=estimate.ratio,
        low=estimate.bound(1 - CONFIDENCE),
        high=estimate.bound(CONFIDENCE),
        power=estimate.power(limit.ratio, confidence=CONFIDENCE),
        num_pairs=num_pairs,
        reason=reason,
    )


def _decide(limit: GateLimit, estimate: RatioEstimate) -> tuple[GateStatus, str]:
    """Non-inferiority: kept only when the whole interval is on the good side of the limit.

    Otherwise a regression, if the interval also excludes that nothing changed, else undecided.
    """
    low, high = estimate.bound(1 - CONFIDENCE), estimate.bound(CONFIDENCE)
    worse_is_up = limit.ratio > 1.0
    is_kept = high < limit.ratio if worse_is_up else low > limit.ratio
    if is_kept:
        return "pass", "the whole interval keeps the limit"
    is_worse = low > 1.0 if worse_is_up else high < 1.0
    if is_worse:
        return "regression", "worse beyond chance, and the limit is not shown to be kept"
    times = _times_longer(limit, estimate)
    return (
        "undecided",
        f"the interval has both no change and the limit in it; about {times} times as long a run would tell",
    )


def _times_longer(limit: GateLimit, estimate: RatioEstimate) -> int:
    """How much longer a run must be for 90 % power, since the error falls with the root of it."""
    wanted = abs(math.log(limit.ratio)) / (1.960 + 1.282)  # of 2.5 % and 10 %
    return max(2, math.ceil((estimate.error / wanted) ** 2))


def _undecidable(limit: GateLimit, num_pairs: int, reason: str) -> GateResult:
    return GateResult(
        limit=limit,
        status="undecided",
        baseline=0.0,
        candidate=0.0,
        ratio=0.0,
        low=0.0,
        high=0.0,
        power=0.0,
        num_pairs=num_pairs,
        reason=reason,
    )


def _statistic(name: GateStatistic) -> tuple[Callable[[Values], float], int]:
    """What is computed from each side, and the fewest pairs for it."""
    if name == "mean":
        return (lambda values: float(values.mean())), 20
    q = int(name[1:]) / 100
    return (lambda values: float(np.quantile(values, q))), samples_needed(q)
