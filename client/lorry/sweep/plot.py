"""The picture of a study: latency against throughput, one curve for each adapters and max_tokens.

Colour tells the adapters, the pattern of the line the lengths. A point is the median with its 95 %
interval, a ring where there are too few requests for one; the number at it is the load.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lorry.distribution import format_rate, format_seconds, samples_needed
from lorry.sweep.confidence import Estimate, quantile_estimate
from lorry.sweep.point import RequestRecord, SweepPoint
from lorry.sweep.svg import Panel, Point, axes, dot, line, polyline, text, ticks

WIDTH = 940
_PLOT_HEIGHT = 270
_LEFTS = (62, 532)
_PLOT_WIDTH = 392
_LEGEND_TOP, _LEGEND_STEP, _LEGEND_COLUMN = 46, 20, 300
_NUM_COLORS, _NUM_DASHES = 8, 4
_LABEL_CLEARANCE = 13.0
_MOST_CHARACTERS = 36

_STYLE = """
.lorry-sweep { --page: #ffffff; --ink: #191d22; --soft: #5b6570; --faint: #e3e6e4; --line: #b9c0c6;
  --c0: #3568c9; --c1: #d2691e; --c2: #1f8a64; --c3: #b4528f; --c4: #7e64c8; --c5: #a3820f;
  --c6: #1d8aad; --c7: #8a5a3c; max-width: 100%; height: auto;
  font-family: system-ui, -apple-system, "Segoe UI", "Liberation Sans", Arial, sans-serif }
@media (prefers-color-scheme: dark) { .lorry-sweep { --page: #15191e; --ink: #e8ebee;
  --soft: #9aa5b1; --faint: #2a3038; --line: #4a535e; --c0: #6c9cf5; --c1: #f0a050; --c2: #47bd95;
  --c3: #da7db5; --c4: #a690ee; --c5: #d8bb47; --c6: #57c0df; --c7: #c99a78 } }
.lorry-sweep .page { fill: var(--page) }
.lorry-sweep text { font-size: 12px; fill: var(--soft) }
.lorry-sweep .heading { font-size: 16px; font-weight: 600; fill: var(--ink) }
.lorry-sweep .title, .lorry-sweep .key { fill: var(--ink) }
.lorry-sweep .load { font-weight: 600; fill: var(--ink); paint-order: stroke; stroke: var(--page);
  stroke-width: 3px; stroke-linejoin: round }
.lorry-sweep .grid { stroke: var(--faint) } .lorry-sweep .axis { stroke: var(--line) }
.lorry-sweep .curve { fill: none; stroke-width: 2.2; stroke-linejoin: round }
.lorry-sweep .whisker { stroke-width: 1.4; opacity: .75 }
.lorry-sweep .mark { stroke-width: 2 }
.lorry-sweep .dash1 { stroke-dasharray: 7 4 } .lorry-sweep .dash2 { stroke-dasharray: 2 4 }
.lorry-sweep .dash3 { stroke-dasharray: 9 3 2 3 }
""" + "".join(
    f".lorry-sweep .c{n} {{ stroke: var(--c{n}); fill: var(--c{n}) }} "
    f".lorry-sweep .curve.c{n} {{ fill: none }} .lorry-sweep .ring.c{n} {{ fill: var(--page) }}\n"
    for n in range(_NUM_COLORS)
)


@dataclass(frozen=True, slots=True)
class _Measure:
    """One latency: its title with the unit, and where to find it."""

    title: str
    value_s: Callable[[RequestRecord], float | None]


_MEASURES = (
    _Measure("time to first token, median, ms", lambda record: record.ttft_from_intended_s),
    _Measure("time per output token, median, ms", lambda record: record.tpot_s),
)


@dataclass(frozen=True, slots=True)
class _Mark:
    """A point's place: tokens/s, and the median in seconds with its interval."""

    point: SweepPoint
    tokens_per_s: float
    median: Estimate
    n: int


@dataclass(frozen=True, slots=True)
class _Curve:
    """The points of one mix, in the order of their loads, and the classes that draw it."""

    name: str
    color: str
    dash: str
    points: tuple[SweepPoint, ...]

    def marks(self, measure: _Measure) -> list[_Mark]:
        """Those points that have a throughput and at least one latency."""
        marks = []
        for point in self.points:
            values = sorted(v for r in point.measured if (v := measure.value_s(r)) is not None)
            rate = point.output_tokens_per_s
            if values and rate is not None:
                median = quantile_estimate(values, 0.5)
                marks.append(_Mark(point, rate.value, median, len(values)))
        return marks


def latency_against_throughput(points: Sequence[SweepPoint]) -> str:
    """An SVG document of two charts. It is complete without its surroundings, and keeps its styles
    to itself among others in a page."""
    curves = _curves(points)
    num_rows = -(-len(curves) // 3)
    top = _LEGEND_TOP + _LEGEND_STEP * num_rows + 36
    height = top + _PLOT_HEIGHT + 76
    body = text(_LEFTS[0] - 40, 26, "Latency against throughput", anchor="start", kind="heading")
    body += text(
        WIDTH - 16,
        26,
        "to the right is more work done, downwards is a faster answer",
        anchor="end",
    )
    body += text(_LEFTS[0] - 40, height - 14, _footnote(points), anchor="start")
    body += "".join(_key(number, curve) for number, curve in enumerate(curves))
    for left, measure in zip(_LEFTS, _MEASURES, strict=True):
        body += _panel(curves, measure, left=left, top=top)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="lorry-sweep" width="{WIDTH}" '
        f'height="{height}" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-label="Latency against output tokens per second">'
        f'<style>{_STYLE}</style><rect class="page" width="{WIDTH}" height="{height}" rx="10"/>'
        f"{body}</svg>\n"
    )


def _footnote(points: Sequence[SweepPoint]) -> str:
    is_closed = all(point.setting.concurrency is not None for point in points)
    load = "requests in flight" if is_closed else "requests per second"
    return (
        f"The number at a point: {load}. Bars: 95 % interval of the median. "
        f"Rings: fewer than {samples_needed(0.5)} requests, indicative."
    )


def _curves(points: Sequence[SweepPoint]) -> list[_Curve]:
    mixes = list(dict.fromkeys(point.setting.adapters for point in points))
    limits = list(dict.fromkeys(point.setting.max_tokens for point in points))
    curves = []
    for name in dict.fromkeys(point.setting.curve for point in points):
        own = tuple(point for point in points if point.setting.curve == name)
        setting = own[0].setting
        color = mixes.index(setting.adapters) % _NUM_COLORS
        dash = limits.index(setting.max_tokens) % _NUM_DASHES
        curves.append(_Curve(name, f"c{color}", f"dash{dash}", own))
    return curves


def _panel(curves: Sequence[_Curve], measure: _Measure, *, left: float, top: float) -> str:
    marks = [curve.marks(measure) for curve in curves]
    every = [mark for of_curve in marks for mark in of_curve]
    bottom, right = top + _PLOT_HEIGHT, left + _PLOT_WIDTH
    highest_ms = max((1000 * (m.median.high or m.median.value) for m in every), default=0.0)
    x_ticks = ticks(max((m.tokens_per_s for m in every), default=0.0) * 1.04, most=6)
    y_ticks = ticks(highest_ms * 1.08, most=5)
    panel = Panel(left, top, right, bottom, x_ticks[-1], y_ticks[-1])
    body = axes(
        panel, x_ticks=x_ticks, y_ticks=y_ticks, x_title="output tokens/s", y_title=measure.title
    )
    if not every:
        middle = ((left + right) / 2, (top + bottom) / 2)
        return body + text(*middle, "no finished request", anchor="middle")
    for curve, of_curve in zip(curves, marks, strict=True):
        body += _drawn(curve, of_curve, panel)
    return body + _labels(every, panel)


def _drawn(curve: _Curve, marks: Sequence[_Mark], panel: Panel) -> str:
    """The line in the order of the loads, so that it bends back where more load gives less."""
    places = [panel.at(mark.tokens_per_s, 1000 * mark.median.value) for mark in marks]
    parts = [polyline(places, kind=f"curve {curve.color} {curve.dash}")]
    for mark, (x, y) in zip(marks, places, strict=True):
        if mark.median.low is not None and mark.median.high is not None:
            ends = [panel.at(0, 1000 * v)[1] for v in (mark.median.low, mark.median.high)]
            kind = f"whisker {curve.color}"
            parts.append(line((x, ends[0]), (x, ends[1]), kind=kind))
            parts += [line((x - 3.5, end), (x + 3.5, end), kind=kind) for end in ends]
        ring = "" if mark.n >= samples_needed(0.5) else " ring"
        parts.append(dot((x, y), kind=f"mark {curve.color}{ring}", tip=_tip(mark)))
    return "".join(parts)


def _labels(marks: Sequence[_Mark], panel: Panel) -> str:
    """The loads beside their points, left out where they would cover another."""
    taken: list[Point] = []
    parts = []
    for mark in sorted(marks, key=lambda mark: -mark.tokens_per_s):
        x, y = panel.at(mark.tokens_per_s, 1000 * mark.median.value)
        place = (x + 8, y - 7)
        if all(
            abs(place[0] - other[0]) > 2 * _LABEL_CLEARANCE
            or abs(place[1] - other[1]) > _LABEL_CLEARANCE
            for other in taken
        ):
            taken.append(place)
            parts.append(text(*place, _short_load(mark.point), anchor="start", kind="load"))
    return "".join(parts)


def _short_load(point: SweepPoint) -> str:
    """The concurrency, or the rate at which requests came."""
    if point.setting.concurrency is not None:
        return str(point.setting.concurrency)
    return f"{format_rate(point.requests_per_s)}/s"


def _tip(mark: _Mark) -> str:
    said = f"{mark.point.setting}: median {format_seconds(mark.median.value)}"
    if mark.median.low is not None and mark.median.high is not None:
        low, high = format_seconds(mark.median.low), format_seconds(mark.median.high)
        said += f" ({low} to {high})"
    said += f" at {format_rate(mark.tokens_per_s)} tokens/s, {mark.n} requests"
    return said if mark.n >= samples_needed(0.5) else f"{said}: too few, indicative"


def _key(number: int, curve: _Curve) -> str:
    row, column = divmod(number, 3)
    x = _LEFTS[0] - 40 + column * _LEGEND_COLUMN
    y = _LEGEND_TOP + row * _LEGEND_STEP
    return (
        polyline([(x, y), (x + 44, y)], kind=f"curve {curve.color} {curve.dash}")
        + dot((x + 22, y), kind=f"mark {curve.color}", tip=curve.name)
        + text(x + 52, y + 4, _shortened(curve.name), anchor="start", kind="key")
    )


def _shortened(name: str) -> str:
    """Without the middle of a long list of adapters; the lengths at its end stay."""
    if len(name) <= _MOST_CHARACTERS:
        return name
    adapters, lengths = name.rsplit(", ", 1)
    room = max(8, _MOST_CHARACTERS - len(lengths) - 3)
    return f"{adapters[:room]}…, {lengths}"
