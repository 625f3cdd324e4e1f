"""The few shapes that a chart is drawn with, as strings of SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Panel:
    """A chart's inner rectangle in pixels, and the values at the ends of its axes (from 0)."""

    left: float
    top: float
    right: float
    bottom: float
    x_high: float
    y_high: float

    def at(self, x: float, y: float) -> Point:
        return (
            self.left + (self.right - self.left) * x / self.x_high,
            self.bottom - (self.bottom - self.top) * y / self.y_high,
        )


def ticks(high: float, *, most: int) -> list[float]:
    """From 0 in steps of 1, 2 or 5 times a power of ten, to the first tick at or over `high`."""
    if high <= 0:
        return [0.0, 1.0]
    rough = high / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [step * number for number in range(math.ceil(high / step - 1e-9) + 1)]


def axes(
    panel: Panel,
    *,
    x_ticks: Sequence[float],
    y_ticks: Sequence[float],
    x_title: str,
    y_title: str,
) -> str:
    """Grid lines, numbers and titles; the titles name the units."""
    parts = []
    for value in y_ticks:
        y = panel.at(0, value)[1]
        kind = "grid" if value else "axis"
        parts.append(line((panel.left, y), (panel.right, y), kind=kind))
        parts.append(text(panel.left - 8, y + 4, f"{value:,g}", anchor="end"))
    for value in x_ticks:
        x = panel.at(value, 0)[0]
        parts.append(text(x, panel.bottom + 18, f"{value:,g}", anchor="middle"))
    parts.append(text(panel.right, panel.bottom + 38, x_title, anchor="end", kind="title"))
    parts.append(text(panel.left, panel.top - 14, y_title, anchor="start", kind="title"))
    return "".join(parts)


def text(x: float, y: float, content: str, *, anchor: str, kind: str = "tick") -> str:
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">'
        f"{escape(content)}</text>"
    )


def line(start: Point, end: Point, *, kind: str) -> str:
    return (
        f'<line class="{kind}" x1="{start[0]:.1f}" y1="{start[1]:.1f}" '
        f'x2="{end[0]:.1f}" y2="{end[1]:.1f}"/>'
    )


def polyline(points: Sequence[Point], *, kind: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{path}"/>'


def dot(at: Point, *, kind: str, tip: str) -> str:
    """A mark that says `tip` when pointed at."""
    return (
        f'<circle class="{kind}" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="4.5">'
        f"<title>{escape(tip)}</title></circle>"
    )
