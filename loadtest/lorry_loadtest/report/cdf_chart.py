"""Distributions of one level as curves: the share of requests that took at most so long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lorry_loadtest import metrics
from lorry_loadtest.headline import format_ms
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.report.axes import (
    LogScale,
    Plot,
    Scale,
    format_tick,
    hline,
    log_ticks,
    polygon,
    polyline,
    svg,
    text,
    thinned,
    vline,
)

_PLOT = Plot(left=46, top=34, right=376, bottom=214)
_WIDTH, _HEIGHT = 390, 254
_MAX_POINTS = 160


@dataclass(frozen=True, slots=True)
class _Curve:
    """`values` ascend, in milliseconds, over 0."""

    kind: str
    values: list[float]


def cdf_charts(run: LevelRun) -> list[str]:
    """TTFT from the schedule and from the send, E2E, and gaps; those that have values."""
    finished = [record for record in run.cohort if record.outcome == "ok"]
    from_schedule = _positive(metrics.ttft_ms(record) for record in finished)
    from_send = _positive(metrics.ttft_service_ms(record) for record in finished)
    e2e = _positive(metrics.e2e_ms(record) for record in finished)
    gaps = _positive(gap for record in finished for gap in metrics.chunk_gaps_ms(record))
    charts = []
    if from_schedule and from_send:
        curves = [_Curve("p50", from_schedule), _Curve("p95", from_send)]
        charts.append(_chart("Time to first token", curves, shaded=True))
    for name, values in (("End to end", e2e), ("Gap between events", gaps)):
        if values:
            charts.append(_chart(name, [_Curve("p50", values)], shaded=False))
    return charts


def _positive(values: Iterable[float | None]) -> list[float]:
    """Ascending; what a coarse clock made zero is drawn as a microsecond."""
    return sorted(max(0.001, value) for value in values if value is not None)


def _chart(name: str, curves: Sequence[_Curve], *, shaded: bool) -> str:
    low = min(curve.values[max(0, len(curve.values) // 1000)] for curve in curves)
    high = max(curve.values[-1] for curve in curves)
    low, high = low / 1.15, max(high * 1.1, low * 2)
    x = LogScale(low, high, _PLOT.left, _PLOT.right)
    y = Scale(1.0, _PLOT.bottom, _PLOT.top)
    body = ""
    for share in (0.0, 0.25, 0.5, 0.75, 0.95, 1.0):
        body += hline(_PLOT.left, _PLOT.right, y.at(share), kind="axis" if share == 0 else "grid")
        if share != 0.95:
            body += text(_PLOT.left - 7, y.at(share) + 3.5, f"{share:.0%}", anchor="end")
    body += text(_PLOT.left + 4, y.at(0.95) + 11, "95 %", anchor="start")
    for tick in log_ticks(low, high):
        body += vline(x.at(tick), _PLOT.top, _PLOT.bottom, kind="grid")
        body += text(x.at(tick), _PLOT.bottom + 15, format_tick(tick), anchor="middle")
    body += text(_PLOT.right, _PLOT.bottom + 31, "ms, logarithmic", anchor="end", kind="title")
    body += text(_PLOT.left, _PLOT.top - 10, name, anchor="start", kind="title")
    lines = [_line(curve.values, x, y) for curve in curves]
    if shaded:
        body += polygon([*lines[0], *reversed(lines[1])], kind="omission")
    # the later one first, so that the headline lies on top
    for curve, line in reversed(list(zip(curves, lines, strict=True))):
        body += polyline(line, kind=f"{curve.kind} curve")
    values = curves[0].values
    told = f"{name}: half within {format_ms(values[len(values) // 2])}, all within {format_ms(values[-1])}"
    return svg(_WIDTH, _HEIGHT, body, label=told)


def _line(values: list[float], x: LogScale, y: Scale) -> list[tuple[float, float]]:
    shown = thinned(values, _MAX_POINTS)
    last = len(shown) - 1 or 1
    return [(x.at(value), y.at(rank / last)) for rank, value in enumerate(shown)]
