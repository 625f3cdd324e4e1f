"""Scales, ticks and the frame that every chart has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps 0..`high` linearly to pixels `start`..`end`."""

    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (self.end - self.start) * value / self.high


@dataclass(frozen=True, slots=True)
class LogScale:
    """Maps `low`..`high` (both over 0) logarithmically to pixels `start`..`end`, and clamps."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        inside = min(self.high, max(self.low, value))
        share = math.log(inside / self.low) / math.log(self.high / self.low)
        return self.start + (self.end - self.start) * share


@dataclass(frozen=True, slots=True)
class Plot:
    """The inner rectangle of a chart, in pixels of its viewBox, which is `width` by `height`."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right + 18

    @property
    def height(self) -> float:
        """With room for the labels of the ticks and the title under them."""
        return self.bottom + 40


# Of three charts in a row, and of two.
NARROW = Plot(left=50, top=34, right=372, bottom=224)
WIDE = Plot(left=50, top=34, right=572, bottom=214)


def nice_ticks(high: float, *, most: int) -> list[float]:
    """From 0 in steps of 1, 2 or 5 times a power of ten, to the first tick at or over `high`."""
    if high <= 0:
        return [0.0, 1.0]
    rough = high / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    num_steps = math.ceil(high / step - 1e-9)
    return [step * number for number in range(num_steps + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten that lie between; fewer when there would be more than nine.

    Over less than a decade they are too few, and even steps take their place.
    """
    if high < 6 * low:
        return [
            tick
            for tick in nice_ticks(high, most=round(4 * high / (high - low)))
            if low <= tick <= high
        ]
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high]
        if len(ticks) <= 9:
            break
    return ticks


def format_tick(value: float) -> str:
    """As short as the number allows."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def axes(
    plot: Plot, *, x_ticks: list[float], y_ticks: list[float], x_title: str, y_title: str
) -> tuple[Scale, Scale, str]:
    """Both scales from 0 to their last tick, y growing upwards; and grid, tick labels and titles."""
    x = Scale(x_ticks[-1], plot.left, plot.right)
    y = Scale(y_ticks[-1], plot.bottom, plot.top)
    parts = []
    for value in y_ticks:
        at = y.at(value)
        line = "axis" if value == 0 else "grid"
        parts.append(hline(plot.left, plot.right, at, kind=line))
        parts.append(text(plot.left - 7, at + 3.5, format_tick(value), anchor="end"))
    for value in x_ticks:
        parts.append(text(x.at(value), plot.bottom + 15, format_tick(value), anchor="middle"))
    parts.append(text(plot.right, plot.bottom + 31, x_title, anchor="end", kind="title"))
    parts.append(text(plot.left, plot.top - 10, y_title, anchor="start", kind="title"))
    return x, y, "".join(parts)


def svg(width: float, height: float, body: str, *, label: str) -> str:
    """The picture itself; `label` is what a screen reader says."""
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(label)}">'
        f"{body}</svg>"
    )


def text(x: float, y: float, content: str, *, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


def hline(x1: float, x2: float, y: float, *, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'


def polyline(points: list[tuple[float, float]], *, kind: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{path}"/>'


def rect(x: float, y: float, width: float, height: float, *, kind: str, tip: str = "") -> str:
    inside = f"<title>{escape(tip)}</title>" if tip else ""
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(width, 0.5):.1f}" '
        f'height="{height:.1f}">{inside}</rect>'
    )


def dot(x: float, y: float, radius: float, *, kind: str, tip: str = "") -> str:
    inside = f"<title>{escape(tip)}</title>" if tip else ""
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}">{inside}</circle>'


def vline(x: float, y1: float, y2: float, *, kind: str) -> str:
    return f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def polygon(points: list[tuple[float, float]], *, kind: str, tip: str = "") -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    inside = f"<title>{escape(tip)}</title>" if tip else ""
    return f'<polygon class="{kind}" points="{path}">{inside}</polygon>'


def dots(points: list[tuple[float, float]], *, kind: str) -> str:
    """Many small discs as one path of round caps: a tenth of the bytes of circles."""
    path = "".join(f"M{x:.1f},{y:.1f}h0" for x, y in points)
    return f'<path class="{kind}" d="{path}"/>' if path else ""


def boxes(places: list[tuple[float, float, float, float]], *, kind: str) -> str:
    """Many rectangles (x, y, width, height) of one kind as one path."""
    path = "".join(
        f"M{x:.1f},{y:.1f}h{max(width, 0.5):.1f}v{height:.1f}h{-max(width, 0.5):.1f}z"
        for x, y, width, height in places
    )
    return f'<path class="{kind}" d="{path}"/>' if path else ""


def error_bar(x: float, y_low: float, y_high: float, *, kind: str) -> str:
    """An upright interval with caps."""
    stem = f"M{x:.1f},{y_low:.1f}V{y_high:.1f}"
    caps = f"M{x - 3:.1f},{y_low:.1f}h6M{x - 3:.1f},{y_high:.1f}h6"
    return f'<path class="{kind}" d="{stem}{caps}"/>'


def thinned(values: list[float], most: int) -> list[float]:
    """At most so many of ascending values, evenly by rank, with both ends."""
    if len(values) <= most:
        return values
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]
