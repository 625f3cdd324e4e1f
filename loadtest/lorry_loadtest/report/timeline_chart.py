"""The requests of one level in time: a lane per stream, a colour per adapter, tokens/s above."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from lorry_loadtest.headline import format_ms
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.report.axes import (
    Plot,
    Scale,
    boxes,
    dot,
    format_tick,
    hline,
    nice_ticks,
    rect,
    svg,
    text,
)

MAX_LANES = 48
MAX_BARS = 2500
_MAX_TIPS = 300
_WIDTH = 1190.0
_LEFT, _RIGHT = 50.0, 1172.0
_RATE_TOP, _RATE_BOTTOM = 30.0, 96.0
_LANES_TOP = 122.0

User = tuple[int, int]  # a worker and a user of it


def timeline_chart(run: LevelRun, *, colors: Mapping[str | None, str]) -> str:
    """Pale until the first token, full while tokens come, a cross where a request failed."""
    records = run.measured
    end_s = max((record.t_end_ns for record in records), default=run.window_end_ns)
    length_s = max(end_s - run.start_ns, run.window_end_ns - run.start_ns) / 1e9
    users = sorted({_user(record) for record in records})[:MAX_LANES]
    lane_px = 15.0 if len(users) <= 16 else 10.0 if len(users) <= 32 else 7.0
    bottom = _LANES_TOP + lane_px * max(1, len(users))
    x = Scale(length_s, _LEFT, _RIGHT)
    plot = Plot(_LEFT, _RATE_TOP, _RIGHT, bottom)
    body = _phases(run, x, plot, length_s=length_s)
    body += _rate(run, x, length_s=length_s)
    lanes = {user: _LANES_TOP + lane_px * lane for lane, user in enumerate(users)}
    shown = [record for record in records if _user(record) in lanes][:MAX_BARS]
    if len(shown) <= _MAX_TIPS:
        for record in shown:
            body += _bar(
                record, run, x, top=lanes[_user(record)], height=lane_px - 3, colors=colors
            )
    else:
        body += _bars(shown, run, x, lanes=lanes, height=lane_px - 3, colors=colors)
    body += hline(_LEFT, _RIGHT, bottom + 2, kind="axis")
    for tick in nice_ticks(length_s, most=12):
        if tick <= length_s:
            body += text(x.at(tick), bottom + 18, f"{tick:g} s", anchor="middle")
    return svg(_WIDTH, bottom + 26, body, label=f"Requests at {run.concurrency} streams in time")


def _user(record: RequestRecord) -> User:
    return record.worker, record.user


def _phases(run: LevelRun, x: Scale, plot: Plot, *, length_s: float) -> str:
    """Shades what does not count."""
    start_s = (run.window_start_ns - run.start_ns) / 1e9
    end_s = (run.window_end_ns - run.start_ns) / 1e9
    height = plot.bottom - plot.top + 2
    body = ""
    for name, begin, end in (("warm-up", 0.0, start_s), ("drain", end_s, length_s)):
        if end - begin <= 0:
            continue
        body += rect(x.at(begin), plot.top, x.at(end) - x.at(begin), height, kind="outside")
        if x.at(end) - x.at(begin) > 50:
            middle = (x.at(begin) + x.at(end)) / 2
            body += text(middle, _LANES_TOP - 9, name, anchor="middle")
    return body


def _rate(run: LevelRun, x: Scale, *, length_s: float) -> str:
    """Tokens that arrived in each second."""
    tokens: Counter[int] = Counter()
    for record in run.measured:
        for stamp_ns, count in zip(record.event_ns, record.event_tokens, strict=True):
            tokens[int((stamp_ns - run.start_ns) / 1e9)] += count
    ticks = nice_ticks(max(tokens.values(), default=1), most=2)
    y = Scale(ticks[-1], _RATE_BOTTOM, _RATE_TOP)
    body = text(_LEFT, _RATE_TOP - 10, "output tokens in each second", anchor="start", kind="title")
    for tick in ticks:
        body += hline(_LEFT, _RIGHT, y.at(tick), kind="axis" if tick == 0 else "grid")
        body += text(_LEFT - 7, y.at(tick) + 3.5, format_tick(tick), anchor="end")
    if length_s > _MAX_TIPS:
        places = [
            (x.at(second), y.at(count), x.at(1) - x.at(0), _RATE_BOTTOM - y.at(count))
            for second, count in sorted(tokens.items())
            if 0 <= second < length_s
        ]
        return body + boxes(places[:: max(1, len(places) // 1000)], kind="rate")
    for second in range(math.ceil(length_s)):
        left, right = x.at(second), x.at(min(second + 1, length_s))
        top = y.at(tokens[second])
        body += rect(
            left + 0.5,
            top,
            right - left - 1,
            _RATE_BOTTOM - top,
            kind="rate",
            tip=f"{tokens[second]} tokens in second {second}",
        )
    return body


def _bars(
    records: Sequence[RequestRecord],
    run: LevelRun,
    x: Scale,
    *,
    lanes: Mapping[User, float],
    height: float,
    colors: Mapping[str | None, str],
) -> str:
    """The same without what a pointer would tell: one path for all bars of a colour."""
    places: dict[str, list[tuple[float, float, float, float]]] = {}
    failed = ""
    for record in records:
        top = lanes[_user(record)]
        begin, end = (
            x.at((ns - run.start_ns) / 1e9) for ns in (record.t_sched_ns, record.t_end_ns)
        )
        first = x.at((record.event_ns[0] - run.start_ns) / 1e9) if record.event_ns else end
        color = colors[record.adapter]
        places.setdefault(f"{color} wait", []).append((begin, top, first - begin - 0.6, height))
        if record.event_ns:
            places.setdefault(color, []).append((first, top, end - first - 1.2, height))
        if record.outcome != "ok":
            failed += dot(end, top + height / 2, min(4.0, height / 2), kind="failed")
    return "".join(boxes(where, kind=kind) for kind, where in places.items()) + failed


def _bar(
    record: RequestRecord,
    run: LevelRun,
    x: Scale,
    *,
    top: float,
    height: float,
    colors: Mapping[str | None, str],
) -> str:
    def at(stamp_ns: int) -> float:
        return x.at((stamp_ns - run.start_ns) / 1e9)

    color = colors[record.adapter]
    begin, end = at(record.t_sched_ns), at(record.t_end_ns)
    first = at(record.event_ns[0]) if record.event_ns else end
    tip = (
        f"{record.adapter or 'base model'}: {record.completion_tokens} tokens in "
        f"{format_ms((record.t_end_ns - record.t_sched_ns) / 1e6)}, {record.outcome}"
    )
    body = rect(begin, top, first - begin - 0.6, height, kind=f"{color} wait", tip=tip)
    if record.event_ns:
        body += rect(first, top, end - first - 1.2, height, kind=color, tip=tip)
    if record.outcome != "ok":
        body += dot(end, top + height / 2, min(4.0, height / 2), kind="failed", tip=tip)
    return body
