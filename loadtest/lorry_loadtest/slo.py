"""Latency objectives such as `ttft_p95<500ms`, for whole levels and for single requests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, cast

import msgspec

from lorry_loadtest import metrics
from lorry_loadtest.percentiles import Distribution
from lorry_loadtest.records import RequestRecord

Metric = Literal["ttft", "tpot", "e2e"]
Statistic = Literal["p50", "p90", "p95", "p99", "mean", "max"]

_VALUES = {"ttft": metrics.ttft_ms, "tpot": metrics.tpot_ms, "e2e": metrics.e2e_ms}
_OBJECTIVE = re.compile(r"(ttft|tpot|e2e)_(p50|p90|p95|p99|mean|max)<(\d+(?:\.\d+)?)(ms|s)")


class Objective(msgspec.Struct, frozen=True):
    """`metric`'s `statistic` is to stay under `limit_ms` milliseconds."""

    metric: Metric
    statistic: Statistic
    limit_ms: float

    def __str__(self) -> str:
        return f"{self.metric.upper()} {self.statistic} < {self.limit_ms:g} ms"


def parse_objectives(text: str) -> tuple[Objective, ...]:
    """Reads a comma-separated list; ValueError names the part that is wrong."""
    objectives = []
    for part in text.split(","):
        match = _OBJECTIVE.fullmatch(part.strip().replace(" ", ""))
        if match is None:
            raise ValueError(
                f"{part.strip()!r} is not an objective; write for example ttft_p95<500ms "
                "(ttft, tpot or e2e; p50, p90, p95, p99, mean or max; ms or s)"
            )
        metric, statistic, number, unit = match.groups()
        objectives.append(
            Objective(
                cast(Metric, metric),  # the expression admits no other word
                cast(Statistic, statistic),
                float(number) * (1000 if unit == "s" else 1),
            )
        )
    return tuple(objectives)


def is_met(objective: Objective, distribution: Distribution) -> bool | None:
    """Whether a level meets it; None when there are too few samples to say.

    A percentile among the requests that were given up is known to be above what was seen, and a
    mean or a maximum without those is known to be too low.
    """
    value: float | None = getattr(distribution, objective.statistic)
    if value is None:
        above = distribution.above.get(objective.statistic)
        return False if above is not None and above >= objective.limit_ms else None
    is_under = value < objective.limit_ms
    if is_under and distribution.num_censored and objective.statistic in ("mean", "max"):
        return None
    return is_under


def is_good(record: RequestRecord, objectives: Sequence[Objective]) -> bool:
    """Whether one request finished and is by itself under every limit; this is goodput's test.

    A latency that the request does not have (TPOT of a single event) cannot break a limit.
    """
    if record.outcome != "ok":
        return False
    return all(
        (value := _VALUES[objective.metric](record)) is None or value < objective.limit_ms
        for objective in objectives
    )
