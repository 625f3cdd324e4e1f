"""Throughput against the number of streams, beside what the first level times n would be."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lorry_loadtest.headline import format_streams
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
from lorry_loadtest.summary import LevelSummary

_PLOT = Plot(left=50, top=34, right=572, bottom=214)
_WIDTH, _HEIGHT = 590, 254
_PERFECT = "if it scaled perfectly"


def throughput_chart(levels: Sequence[LevelSummary]) -> str:
    """Output tokens/s; the thin line is perfect scaling from the lowest level."""
    first = levels[0]

    def linear(streams: float) -> float:
        return first.output_tokens_per_s / first.concurrency * streams

    return _chart(
        levels,
        lambda level: level.output_tokens_per_s,
        y_title="output tokens/s, all streams together",
        label="Output tokens per second against concurrent streams",
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
        label="Decoding speed of one stream against concurrent streams",
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
    x_ticks = nice_ticks(max(level.concurrency for level in levels) * 1.04, most=8)
    y_ticks = nice_ticks(highest * 1.12, most=5)
    x, y = scales(_PLOT, x_ticks=x_ticks, y_ticks=y_ticks)
    body = frame(
        _PLOT,
        x=x,
        y=y,
        x_ticks=x_ticks,
        y_ticks=y_ticks,
        x_title="concurrent streams",
        y_title=y_title,
    )
    if reference is not None:
        body += _reference(reference, x, y)
    ats = [(x.at(level.concurrency), y.at(value_of(level))) for level in levels]
    body += polyline(ats, kind="p50 curve")
    for level, at in zip(levels, ats, strict=True):
        shown = f"{value_of(level):,.0f}" if value_of(level) >= 10 else f"{value_of(level):.1f}"
        tip = f"{shown} at {format_streams(level.concurrency)}"
        body += dot(*at, 4.2, kind="p50 mark", tip=tip)
        body += text(at[0], at[1] - 10, shown, anchor="middle", kind="load")
    return svg(_WIDTH, _HEIGHT, body, label=label)


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
