"""Goodput against offered load: past the knee more is asked for and less of it is good."""

from __future__ import annotations

from collections.abc import Sequence

from lorry_loadtest.headline import load_label
from lorry_loadtest.report.axes import (
    WIDE,
    axes,
    dot,
    error_bar,
    nice_ticks,
    polyline,
    svg,
    text,
)
from lorry_loadtest.summary import LevelSummary


def goodput_chart(levels: Sequence[LevelSummary]) -> str:
    """Good requests per second over offered ones; the thin line is all of them good."""
    told = sorted(
        (level for level in levels if level.goodput_per_s is not None and not level.descending),
        key=lambda level: level.offered_per_s,
    )
    highest = max((level.offered_per_s for level in told), default=1.0) or 1.0
    ticks = nice_ticks(highest * 1.08, most=6)
    x, y, body = axes(
        WIDE,
        x_ticks=ticks,
        y_ticks=ticks,
        x_title="offered requests/s",
        y_title="good requests/s",
    )
    body += polyline([(x.at(0), y.at(0)), (x.at(ticks[-1]), y.at(ticks[-1]))], kind="reference")
    ats = [(x.at(level.offered_per_s), y.at(level.goodput_per_s or 0.0)) for level in told]
    body += polyline(ats, kind="p50 curve")
    last_label = -100.0
    for level, at in zip(told, ats, strict=True):
        interval = level.good_share_interval
        if interval is not None:
            low, high = (
                y.at(share * level.offered_per_s) for share in (interval.low, interval.high)
            )
            body += error_bar(at[0], low, high, kind="p50 error")
        share = level.good_share or 0.0
        tip = f"{level.goodput_per_s or 0.0:.2f}/s good of {level.offered_per_s:.2f}/s at {load_label(level)}"
        body += dot(*at, 4.2, kind="p50 mark", tip=tip)
        if at[0] - last_label >= 34:
            body += text(at[0], at[1] - 11, f"{share:.0%}", anchor="middle", kind="load")
            last_label = at[0]
    return svg(
        WIDE.width, WIDE.height, body, label="Good requests per second against offered requests"
    )
