"""Latency against throughput: a point per level with its interval, the objective and the knee."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorry_loadtest.headline import format_ms, format_rate, load_label
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.report.axes import (
    NARROW,
    Scale,
    axes,
    dot,
    dots,
    error_bar,
    hline,
    nice_ticks,
    polyline,
    svg,
    text,
    thinned,
)
from lorry_loadtest.report.knee import knee
from lorry_loadtest.slo import Objective
from lorry_loadtest.statistics.intervals import quantile_interval
from lorry_loadtest.statistics.quantiles import quantile, samples_needed
from lorry_loadtest.summary import LevelSummary

_MAX_DOTS = 900
_JITTER_PX = 7.0
_LABEL_PX = 15.0


@dataclass(frozen=True, slots=True)
class _Point:
    """A level's sample at its throughput; `values` ascend."""

    level: LevelSummary
    values: list[float]

    @property
    def tokens_per_s(self) -> float:
        return self.level.output_tokens_per_s


def latency_chart(
    name: str,
    latency_ms: Callable[[RequestRecord], float | None],
    *,
    runs: Sequence[LevelRun],
    levels: Sequence[LevelSummary],
    objective: Objective | None = None,
) -> str:
    """p50 and p95 of `latency_ms`; a ring instead of a disc where a sample is under its floor."""
    points = [
        _Point(level, values)
        for run, level in zip(runs, levels, strict=True)
        if (values := _values(run, latency_ms))
    ]
    if not points:
        body = text(NARROW.width / 2, NARROW.height / 2, "no finished request", anchor="middle")
        return svg(NARROW.width, NARROW.height, body, label=f"{name}: no finished request")
    highest = max(quantile(point.values, 0.98) for point in points)
    if objective is not None and objective.limit_ms < 2 * highest:
        highest = max(highest, objective.limit_ms)
    x_ticks = nice_ticks(max(point.tokens_per_s for point in points) * 1.06, most=5)
    y_ticks = nice_ticks(highest * 1.06, most=5)
    x, y, body = axes(
        NARROW,
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        x_title="output tokens/s",
        y_title=f"{name}, ms",
    )
    body += dots(_samples(points, x, y), kind="samples")
    if objective is not None and objective.limit_ms <= y.high:
        body += hline(NARROW.left, NARROW.right, y.at(objective.limit_ms), kind="slo")
        label = f"{objective.statistic} < {format_ms(objective.limit_ms)}"
        body += text(NARROW.right, y.at(objective.limit_ms) - 5, label, anchor="end", kind="slo")
    body += _curve(points, 0.95, x, y, kind="p95")
    body += _curve(points, 0.50, x, y, kind="p50")
    body += _labels(points, x, y)
    return svg(NARROW.width, NARROW.height, body, label=f"{name} against output tokens per second")


def _values(run: LevelRun, latency_ms: Callable[[RequestRecord], float | None]) -> list[float]:
    finished = [record for record in run.cohort if record.outcome == "ok"]
    return sorted(value for r in finished if (value := latency_ms(r)) is not None)


def _samples(points: Sequence[_Point], x: Scale, y: Scale) -> list[tuple[float, float]]:
    """Spread a little sideways, so that equal values do not hide each other."""
    places = []
    for point in points:
        for number, value in enumerate(thinned(point.values, _MAX_DOTS // len(points))):
            if value <= y.high:
                sideways = ((number * 0.618034) % 1.0 * 2 - 1) * _JITTER_PX
                places.append((x.at(point.tokens_per_s) + sideways, y.at(value)))
    return places


def _curve(points: Sequence[_Point], q: float, x: Scale, y: Scale, *, kind: str) -> str:
    """In the order of the levels, so that a curve bends back where more load gives less."""
    ats = [(x.at(p.tokens_per_s), y.at(min(y.high, quantile(p.values, q)))) for p in points]
    marks = []
    for point, at in zip(points, ats, strict=True):
        n = len(point.values)
        enough = n >= samples_needed(q)
        interval = quantile_interval(point.values, q) if enough else None
        told = f"{kind} {format_ms(quantile(point.values, q))} at {load_label(point.level)}, {n} requests"
        if interval is not None:
            low, high = (min(y.high, end) for end in (interval.low, interval.high))
            marks.append(error_bar(at[0], y.at(low), y.at(high), kind=f"{kind} error"))
            told += f", 95 % interval {format_ms(interval.low)} to {format_ms(interval.high)}"
        if not enough:
            told += f" (fewer than {samples_needed(q)}: indicative)"
        marks.append(dot(*at, 4.2, kind=f"{kind} mark{'' if enough else ' ring'}", tip=told))
    return polyline(ats, kind=f"{kind} curve") + "".join(marks)


def _labels(points: Sequence[_Point], x: Scale, y: Scale) -> str:
    """The load above the higher of two marks, where there is room; the knee always."""
    at_knee = knee([point.level for point in points])
    taken: list[tuple[float, float]] = []
    body = ""
    ordered = sorted(points, key=lambda point: point.level is not at_knee)
    for point in ordered:
        if point.level.descending:
            continue
        place = (x.at(point.tokens_per_s), y.at(min(y.high, quantile(point.values, 0.95))) - 9)
        if any(abs(place[0] - px) < 22 and abs(place[1] - py) < _LABEL_PX for px, py in taken):
            continue
        taken.append(place)
        level = point.level
        load = (
            str(level.concurrency)
            if level.rate_per_s is None
            else f"{format_rate(level.rate_per_s)}/s"
        )
        is_knee = level is at_knee and len(points) > 2
        body += text(*place, f"{load}{' knee' if is_knee else ''}", anchor="middle", kind="load")
    return body
