"""The slowest requests as lanes of their parts, on one axis from the schedule on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lorry_loadtest.headline import format_ms
from lorry_loadtest.report.axes import Scale, nice_ticks, rect, svg, text, vline
from lorry_loadtest.waterfall import PARTS, Waterfall

_WIDTH = 1190.0
_LEFT, _RIGHT = 176.0, 1096.0
_ROW_PX, _TOP = 22.0, 6.0
_LONGEST_NAME = 22


def swim_lanes(falls: Sequence[Waterfall], *, names: Mapping[str | None, str]) -> str:
    """One lane per waterfall, in the order given; `names` are what adapters are called."""
    longest = max(fall.e2e_ms + fall.parts["user"] for fall in falls)
    ticks = [tick for tick in nice_ticks(longest, most=10) if tick <= longest * 1.02]
    x = Scale(longest, _LEFT, _RIGHT)
    bottom = _TOP + _ROW_PX * len(falls)
    body = "".join(vline(x.at(tick), _TOP - 4, bottom, kind="grid") for tick in ticks)
    for number, fall in enumerate(falls):
        body += _lane(fall, x, top=_TOP + number * _ROW_PX, name=names[fall.adapter])
    for tick in ticks:
        body += text(x.at(tick), bottom + 15, format_ms(tick) if tick else "0", anchor="middle")
    return svg(_WIDTH, bottom + 24, body, label="The slowest requests, split into their parts")


def _ticks(fall: Waterfall, x: Scale, *, top: float) -> str:
    """A line for each event, at its arrival: where decoding was even, and where it paused."""
    if not fall.tokens_ms:
        return ""
    lines = "".join(f"M{x.at(at_ms):.1f},{top + 2:.1f}v{_ROW_PX - 7:g}" for at_ms in fall.tokens_ms)
    return f'<path class="token-ticks" d="{lines}"/>'


def _lane(fall: Waterfall, x: Scale, *, top: float, name: str) -> str:
    label = f"{fall.index} {name}"
    if len(label) > _LONGEST_NAME:
        label = f"{label[: _LONGEST_NAME - 1]}…"
    body = text(_LEFT - 9, top + 13, label, anchor="end", kind="load")
    begin = 0.0
    widths = {**fall.parts, "residual": max(0.0, fall.residual_ms)}
    for part in (*PARTS[:-1], "residual", "user"):
        value = widths[part]
        if value > 0:
            left = x.at(begin)
            tip = f"{part} {format_ms(value)} of request {fall.request_id or fall.index}"
            width = max(0.5, x.at(begin + value) - left)
            body += rect(left, top + 2, width, _ROW_PX - 7, kind=f"part-{part}", tip=tip)
        begin += max(0.0, value)
    body += _ticks(fall, x, top=top)
    return body + text(x.at(begin) + 7, top + 13, format_ms(fall.e2e_ms), anchor="start")
