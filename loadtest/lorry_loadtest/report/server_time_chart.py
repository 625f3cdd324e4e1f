"""Where the mean request spent its time, as the server itself measured it, level by level."""

from __future__ import annotations

from collections.abc import Sequence

from lorry_loadtest.headline import format_ms, load_label
from lorry_loadtest.report.axes import Scale, rect, svg, text
from lorry_loadtest.summary import LevelSummary, ServerTimes

PARTS = ("load", "queue", "prefill", "decode", "rest")

_WIDTH = 1190.0
_LEFT, _RIGHT = 130.0, 1090.0
_ROW_PX = 30.0


def server_time_chart(levels: Sequence[LevelSummary]) -> str | None:
    """A stacked bar per level; None when the server sends no timings."""
    rows = [(load_label(level), level.server) for level in levels if level.server is not None]
    if not rows:
        return None
    longest = max(sum(_parts(server)) for _, server in rows)
    x = Scale(longest, _LEFT, _RIGHT)
    body = ""
    for number, (label, server) in enumerate(rows):
        body += _row(label, server, x, top=4 + _ROW_PX * number)
    return svg(
        _WIDTH, 4 + _ROW_PX * len(rows), body, label="Mean time of a request, split by the server"
    )


def _row(label: str, server: ServerTimes, x: Scale, *, top: float) -> str:
    body = text(_LEFT - 10, top + 15, label, anchor="end", kind="load")
    begin = 0.0
    for name, value in zip(PARTS, _parts(server), strict=True):
        if value > 0:
            width = x.at(begin + value) - x.at(begin)
            tip = f"{name} {format_ms(value)}, mean of {server.n} requests"
            body += rect(x.at(begin), top, width - 1, 21, kind=f"part-{name}", tip=tip)
            if width > 62:
                body += text(
                    x.at(begin) + 7, top + 15, format_ms(value), anchor="start", kind="inbar"
                )
        begin += value
    return body + text(x.at(begin) + 8, top + 15, format_ms(begin), anchor="start", kind="tick")


def _parts(server: ServerTimes) -> tuple[float, ...]:
    """In the order of `PARTS`; a rest under zero, from clocks that round, is shown as none."""
    return (
        server.adapter_load_ms,
        server.queue_ms,
        server.prefill_ms,
        server.decode_ms,
        max(0.0, server.rest_ms),
    )
