"""Throughput against the number of streams, beside what the first level times n would be."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lorry_loadtest.headline import load_label
from lorry_loadtest.report.axes import (
    WIDE,
    Scale,
    axes,
    dot,
    nice_ticks,
    polyline,
    svg,
    text,
)
from lorry_loadtest.summary import LevelSummary

_PERFECT = "if it scaled perfectly"


def throughput_chart(levels: Sequence[LevelSummary]) -> str:
    """Output tokens/s; the thin line is perfect scaling from the lowest level.

    The way down of a sweep is a dashed curve of its own.
    """
    first = levels[0]

    def linear(load: float) -> float:
        return first.output_tokens_per_s / _load(first) * load

    return _chart(
        levels,
        lambda level: level.output_tokens_per_s,
        y_title="output tokens/s, all streams together",
        label="Output tokens per second against load",
        reference=linear if len(levels) > 1 else None,
    )


def stream_speed_chart(levels: Sequence[LevelSummary]) -> str:
    """Tokens per second that one stream sees while it decodes: 1 / mean TPOT."""

    def speed(level: LevelSummary) -> float:
        mean_ms = level.latencies.tpot_ms.mean
        return 1000 / mean_ms if mean_ms else 0.0

    return _chart(
        levels,
        speed,
        y_title="tokens/s that one stream sees (1 / mean TPOT)",
        label="Decoding speed of one stream against load",
        reference=None,
    )


def _chart(
    levels: Sequence[LevelSummary],
    value_of: Callable[[LevelSummary], float],
    *,
    y_title: str,
    label: str,
    reference: Callable[[float], float] | None,
) -> str:
    highest = max(value_of(level) for level in levels)
    x_ticks = nice_ticks(max(_load(level) for level in levels) * 1.04, most=8)
    y_ticks = nice_ticks(highest * 1.12, most=5)
    x, y, body = axes(
        WIDE,
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        x_title="concurrent streams" if levels[0].rate_per_s is None else "arrivals per second",
        y_title=y_title,
    )
    if reference is not None:
        body += _reference(reference, x, y)
    labelled: list[tuple[float, float]] = []
    for kind, descending in (("p95", True), ("p50", False)):
        half = [level for level in levels if level.descending is descending]
        half.sort(key=_load)
        ats = [(x.at(_load(level)), y.at(value_of(level))) for level in half]
        body += polyline(ats, kind=f"{kind} curve")
        for level, at in zip(half, ats, strict=True):
            shown = f"{value_of(level):,.0f}" if value_of(level) >= 10 else f"{value_of(level):.1f}"
            body += dot(*at, 4.2, kind=f"{kind} mark", tip=f"{shown} at {load_label(level)}")
            crowded = any(abs(at[0] - px) < 30 and abs(at[1] - py) < 14 for px, py in labelled)
            if not descending and not crowded:
                body += text(at[0], at[1] - 10, shown, anchor="middle", kind="load")
                labelled.append(at)
    return svg(WIDE.width, WIDE.height, body, label=label)


def _load(level: LevelSummary) -> float:
    return float(level.concurrency) if level.rate_per_s is None else level.rate_per_s


def _reference(reference: Callable[[float], float], x: Scale, y: Scale) -> str:
    """The line as far as it stays inside the plot."""
    slope = reference(1.0)
    if slope <= 0:
        return ""
    end = min(x.high, y.high / slope)
    at = (x.at(end), y.at(slope * end))
    # beside the end of the line, on the side where a steep or a flat one leaves room
    if end < 0.6 * x.high:
        label = text(at[0] + 10, at[1] + 12, _PERFECT, anchor="start")
    else:
        label = text(at[0] - 14, at[1], _PERFECT, anchor="end")
    return polyline([(x.at(0), y.at(0)), at], kind="reference") + label
