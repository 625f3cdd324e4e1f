"""Latency against throughput: one point per level, every request as a faint dot behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorry_loadtest.headline import format_ms, format_streams
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.report.axes import (
    Plot,
    Scale,
    dot,
    frame,
    nice_ticks,
    polyline,
    scales,
    svg,
    text,
)
from lorry_loadtest.statistics.quantiles import quantile, samples_needed
from lorry_loadtest.summary import LevelSummary

_PLOT = Plot(left=50, top=34, right=372, bottom=224)
_WIDTH, _HEIGHT = 390, 264
_MAX_DOTS_PER_LEVEL = 300
_JITTER_PX = 7.0


@dataclass(frozen=True, slots=True)
class _Point:
    """A level's sample at its throughput; `values` ascend."""

    concurrency: int
    tokens_per_s: float
    values: list[float]


def latency_chart(
    name: str,
    latency_ms: Callable[[RequestRecord], float | None],
    *,
    runs: Sequence[LevelRun],
    levels: Sequence[LevelSummary],
) -> str:
    """p50 and p95 of `latency_ms`; a ring instead of a disc where a sample is under its floor."""
    points = [
        _Point(run.concurrency, level.output_tokens_per_s, values)
        for run, level in zip(runs, levels, strict=True)
        if (values := _values(run, latency_ms))
    ]
    if not points:
        body = text(_WIDTH / 2, _HEIGHT / 2, "no finished request", anchor="middle")
        return svg(_WIDTH, _HEIGHT, body, label=f"{name}: no finished request")
    x_ticks = nice_ticks(max(point.tokens_per_s for point in points) * 1.04, most=5)
    y_ticks = nice_ticks(max(quantile(point.values, 0.98) for point in points) * 1.06, most=5)
    x, y = scales(_PLOT, x_ticks=x_ticks, y_ticks=y_ticks)
    body = frame(
        _PLOT,
        x=x,
        y=y,
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        x_title="output tokens/s",
        y_title=f"{name}, ms",
    )
    body += "".join(_dots(point, x, y) for point in points)
    body += _curve(points, 0.95, x, y, kind="p95")
    body += _curve(points, 0.50, x, y, kind="p50")
    body += "".join(_label(point, x, y) for point in points)
    return svg(_WIDTH, _HEIGHT, body, label=f"{name} against output tokens per second")


def _values(run: LevelRun, latency_ms: Callable[[RequestRecord], float | None]) -> list[float]:
    finished = [record for record in run.cohort if record.outcome == "ok"]
    return sorted(value for r in finished if (value := latency_ms(r)) is not None)


def _dots(point: _Point, x: Scale, y: Scale) -> str:
    """Spread a little sideways, so that equal values do not hide each other."""
    stride = max(1, len(point.values) // _MAX_DOTS_PER_LEVEL)
    dots = []
    for number, value in enumerate(point.values[::stride]):
        if value > y.high:
            continue
        sideways = ((number * 0.618034) % 1.0 * 2 - 1) * _JITTER_PX
        dots.append(dot(x.at(point.tokens_per_s) + sideways, y.at(value), 1.7, kind="sample"))
    return "".join(dots)


def _curve(points: Sequence[_Point], q: float, x: Scale, y: Scale, *, kind: str) -> str:
    """In the order of the levels, so that a curve bends back where more load gives less."""
    ats = [(x.at(p.tokens_per_s), y.at(quantile(p.values, q))) for p in points]
    marks = []
    for point, at in zip(points, ats, strict=True):
        n = len(point.values)
        enough = n >= samples_needed(q)
        tip = (
            f"{kind} {format_ms(quantile(point.values, q))} at {format_streams(point.concurrency)}, "
            f"{n} requests" + ("" if enough else f" (fewer than {samples_needed(q)}: indicative)")
        )
        marks.append(dot(*at, 4.2, kind=f"{kind} mark{'' if enough else ' ring'}", tip=tip))
    return polyline(ats, kind=f"{kind} curve") + "".join(marks)


def _label(point: _Point, x: Scale, y: Scale) -> str:
    """The number of streams, above the higher of the two marks."""
    top = y.at(quantile(point.values, 0.95))
    return text(
        x.at(point.tokens_per_s), top - 9, str(point.concurrency), anchor="middle", kind="load"
    )
