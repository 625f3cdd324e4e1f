"""Reads gates such as `tpot_p95:+5%,goodput:-3%`: how much worse a figure may become."""

from __future__ import annotations

import re
from typing import Literal, cast, get_args

import msgspec

LatencyMetric = Literal["ttft", "tpot", "e2e", "max_gap"]
RateMetric = Literal["goodput", "throughput"]
GateStatistic = Literal["p50", "p90", "p95", "p99", "mean"]

_LATENCIES = "|".join(get_args(LatencyMetric))
_STATISTICS = "|".join(get_args(GateStatistic))
_RATES = "|".join(get_args(RateMetric))
_LATENCY_GATE = re.compile(rf"({_LATENCIES})_({_STATISTICS}):\+(\d+(?:\.\d+)?)%")
_RATE_GATE = re.compile(rf"({_RATES}):-(\d+(?:\.\d+)?)%")


class GateLimit(msgspec.Struct, frozen=True):
    """`ratio` is candidate over baseline: a latency may reach it from below, a rate from above.

    `statistic` is None for rates.
    """

    metric: LatencyMetric | RateMetric
    statistic: GateStatistic | None
    ratio: float

    def __str__(self) -> str:
        name = self.metric.replace("_", " ")
        change = f"{100 * (self.ratio - 1):+.3g} %"
        return (
            f"{name} {change}"
            if self.statistic is None
            else f"{name.upper()} {self.statistic} {change}"
        )


def parse_gate(text: str) -> tuple[GateLimit, ...]:
    """Reads a comma-separated list; ValueError names the part that is wrong."""
    limits = []
    for part in text.split(","):
        word = part.strip().replace(" ", "")
        latency, rate = _LATENCY_GATE.fullmatch(word), _RATE_GATE.fullmatch(word)
        if latency is not None:
            metric, statistic, percent = latency.groups()
            limit = GateLimit(
                cast(LatencyMetric, metric),  # the expression admits no other word
                cast(GateStatistic, statistic),
                1 + float(percent) / 100,
            )
        elif rate is not None and float(rate.group(2)) < 100:
            limit = GateLimit(cast(RateMetric, rate.group(1)), None, 1 - float(rate.group(2)) / 100)
        else:
            raise ValueError(
                f"{part.strip()!r} is not a gate; write for example tpot_p95:+5% or goodput:-3% "
                f"({_LATENCIES.replace('|', ', ')} with {_STATISTICS.replace('|', ', ')} and a "
                f"plus; {_RATES.replace('|', ', ')} with a minus)"
            )
        if limit.ratio == 1.0:
            raise ValueError(f"{part.strip()!r} allows no change at all, which no run can show")
        limits.append(limit)
    return tuple(limits)
