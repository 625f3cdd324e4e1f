"""One level on one axis of time: first tokens, tokens/s, streams by adapter, queue and KV use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lorry_loadtest import metrics
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.report.axes import (
    Scale,
    dots,
    format_tick,
    hline,
    nice_ticks,
    polygon,
    polyline,
    rect,
    svg,
    text,
)
from lorry_loadtest.server_steps import ServerStep

_WIDTH = 1190.0
_LEFT, _RIGHT = 58.0, 1172.0
_ROW, _GAP, _TOP = 84.0, 34.0, 30.0
_BINS = 240
_MAX_DOTS = 1500


def server_timeline(run: LevelRun, *, colors: Mapping[str | None, str]) -> str:
    """Rows for which nothing was observed are left out; warm-up and drain are shaded."""
    end_ns = max((record.t_end_ns for record in run.measured), default=run.window_end_ns)
    length_s = max(end_ns - run.start_ns, run.window_end_ns - run.start_ns) / 1e9
    x = Scale(length_s, _LEFT, _RIGHT)
    steps = run.steps
    rows = [_first_tokens(run, x), _tokens(run, x, length_s), _streams(run, x, length_s, colors)]
    if steps:
        rows.append(_queue(run, steps, x))
    if any(step.kv_total for step in steps):
        rows.append(_kv_use(run, steps, x))
    bottom = _TOP + len(rows) * (_ROW + _GAP) - _GAP
    body = _outside(run, x, bottom, length_s=length_s)
    for number, row in enumerate(rows):
        body += f'<g transform="translate(0,{_TOP + number * (_ROW + _GAP):g})">{row}</g>'
    for tick in nice_ticks(length_s, most=12):
        if tick <= length_s:
            body += text(x.at(tick), bottom + 17, f"{tick:g} s", anchor="middle")
    return svg(_WIDTH, bottom + 26, body, label="The server in time")


def _outside(run: LevelRun, x: Scale, bottom: float, *, length_s: float) -> str:
    body = ""
    start_s = (run.window_start_ns - run.start_ns) / 1e9
    end_s = (run.window_end_ns - run.start_ns) / 1e9
    for name, begin, end in (("warm-up", 0.0, start_s), ("drain", end_s, length_s)):
        if end <= begin:
            continue
        width = x.at(end) - x.at(begin)
        body += rect(x.at(begin), _TOP, width, bottom - _TOP, kind="outside")
        if width > 46:
            body += text(x.at((begin + end) / 2), _TOP + 11, name, anchor="middle")
    return body


def _axis(high: float, title: str, *, percent: bool = False) -> tuple[Scale, str]:
    ticks = nice_ticks(high, most=2)
    y = Scale(ticks[-1], _ROW, 0.0)
    body = text(_LEFT, -9, title, anchor="start", kind="title")
    for tick in ticks:
        body += hline(_LEFT, _RIGHT, y.at(tick), kind="axis" if tick == 0 else "grid")
        label = f"{tick:.0%}" if percent else format_tick(tick)
        body += text(_LEFT - 7, y.at(tick) + 3.5, label, anchor="end")
    return y, body


def _first_tokens(run: LevelRun, x: Scale) -> str:
    answers = [record for record in run.measured if record.event_ns]
    stride = max(1, len(answers) // _MAX_DOTS)
    shown = answers[::stride]
    ttfts = sorted(metrics.ttft_ms(record) or 0.0 for record in shown)
    high = ttfts[min(len(ttfts) - 1, int(0.995 * len(ttfts)))] if ttfts else 1.0
    y, body = _axis(
        high, "TTFT of each request, ms" + (f" (every {stride}th)" if stride > 1 else "")
    )
    places = [
        (
            x.at((record.t_sched_ns - run.start_ns) / 1e9),
            y.at(min(y.high, metrics.ttft_ms(record) or 0.0)),
        )
        for record in shown
    ]
    return body + dots(places, kind="ttfts")


def _tokens(run: LevelRun, x: Scale, length_s: float) -> str:
    width_s = max(0.25, length_s / _BINS)
    counts = [0] * (math.ceil(length_s / width_s) + 1)
    for record in run.measured:
        for stamp_ns, count in zip(record.event_ns, record.event_tokens, strict=True):
            place = int((stamp_ns - run.start_ns) / 1e9 / width_s)
            if 0 <= place < len(counts):
                counts[place] += count
    rates = [count / width_s for count in counts]
    y, body = _axis(max(rates, default=1.0), "output tokens/s")
    line = [(x.at(min(length_s, i * width_s)), y.at(rate)) for i, rate in enumerate(rates)]
    area = [(x.at(0), y.at(0)), *_stepped(line), (x.at(length_s), y.at(0))]
    return body + polygon(area, kind="rate")


def _streams(run: LevelRun, x: Scale, length_s: float, colors: Mapping[str | None, str]) -> str:
    """Requests under way, stacked by adapter."""
    width_s = max(0.1, length_s / _BINS)
    num_bins = math.ceil(length_s / width_s) + 1
    changes: dict[str, list[int]] = {}
    for record in run.measured:
        row = changes.setdefault(colors[record.adapter], [0] * (num_bins + 1))
        begin = int((record.t_sched_ns - run.start_ns) / 1e9 / width_s)
        end = int((record.t_end_ns - run.start_ns) / 1e9 / width_s)
        row[max(0, min(num_bins, begin))] += 1
        row[max(0, min(num_bins, end))] -= 1
    levels = {color: _running_sums(row)[:num_bins] for color, row in sorted(changes.items())}
    totals = [sum(row[i] for row in levels.values()) for i in range(num_bins)]
    y, body = _axis(max(totals, default=1), "requests under way, by adapter")
    base = [0.0] * num_bins
    for color, row in levels.items():
        top = [base[i] + row[i] for i in range(num_bins)]
        upper = [(x.at(min(length_s, i * width_s)), y.at(top[i])) for i in range(num_bins)]
        lower = [(x.at(min(length_s, i * width_s)), y.at(base[i])) for i in range(num_bins)]
        body += polygon([*_stepped(upper), *reversed(_stepped(lower))], kind=color)
        base = top
    return body


def _queue(run: LevelRun, steps: tuple[ServerStep, ...], x: Scale) -> str:
    bins = _binned(run, steps)
    batch = [(at, sum(s.batch for s in group) / len(group)) for at, group in bins]
    waiting = [(at, float(max(s.waiting for s in group))) for at, group in bins]
    preemptions = sum(step.preemptions for step in steps)
    attaches = sum(step.adapter_attaches for step in steps)
    high = max(value for _, value in (*batch, *waiting))
    y, body = _axis(
        high or 1.0,
        f"batch of a step (line) and queue (dashed); {preemptions:,} preemptions, "
        f"{attaches:,} adapters attached",
    )
    body += polyline([(x.at(at), y.at(value)) for at, value in batch], kind="p50 curve thin")
    return body + polyline(
        [(x.at(at), y.at(value)) for at, value in waiting], kind="p95 curve thin"
    )


def _kv_use(run: LevelRun, steps: tuple[ServerStep, ...], x: Scale) -> str:
    bins = _binned(run, [step for step in steps if step.kv_total])
    use = [(at, max(s.kv_used / s.kv_total for s in group)) for at, group in bins]
    y, body = _axis(1.0, "KV cache in use", percent=True)
    area = [(x.at(use[0][0]), y.at(0)), *((x.at(at), y.at(v)) for at, v in use)]
    return body + polygon([*area, (x.at(use[-1][0]), y.at(0))], kind="rate")


def _binned(run: LevelRun, steps: Sequence[ServerStep]) -> list[tuple[float, list[ServerStep]]]:
    """Steps by time in at most `_BINS` groups, none of them empty; the time in seconds."""
    first, last = steps[0].t_ns, steps[-1].t_ns
    width = max(1, (last - first) // _BINS)
    groups: dict[int, list[ServerStep]] = {}
    for step in steps:
        groups.setdefault((step.t_ns - first) // width, []).append(step)
    return [
        ((first + place * width - run.start_ns) / 1e9, group)
        for place, group in sorted(groups.items())
    ]


def _running_sums(changes: Sequence[int]) -> list[int]:
    total = 0
    sums = []
    for change in changes:
        total += change
        sums.append(total)
    return sums


def _stepped(line: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Each value holds until the next one."""
    stepped = []
    for number, (at, value) in enumerate(line):
        if number:
            stepped.append((at, line[number - 1][1]))
        stepped.append((at, value))
    return stepped
