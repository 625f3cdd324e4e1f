"""The loss curve: a picture (SVG, no library needed) and one line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise

WIDTH, HEIGHT = 720, 360
LEFT, TOP, RIGHT, BOTTOM = 56, 48, 700, 312
MAX_POINTS = 1000  # more would make a large file, and no eye would see them
BARS = "▁▂▃▄▅▆▇█"

_STYLE = """
svg { font: 12px system-ui, sans-serif; background: #fff }
.grid { stroke: #e4e4e7 } .axis { stroke: #71717a }
text { fill: #52525b } .title { fill: #18181b; font-size: 14px; font-weight: 600 }
polyline { fill: none; stroke-linejoin: round }
.step { stroke: #bfdbfe; stroke-width: 1 } .mean { stroke: #1d4ed8; stroke-width: 2 }
.held-out { stroke: #c2410c; stroke-width: 2 } circle { fill: #c2410c }
"""


def loss_curve(
    losses: Sequence[float], *, held_out: Sequence[tuple[int, float]] = (), title: str
) -> str:
    """An SVG document: each step's loss (thin), their running mean, and the held-out loss.

    `losses[i]` is that of step i + 1; `held_out` pairs numbers of steps with losses. Values that
    are not finite are left out.
    """
    steps = [(step, loss) for step, loss in enumerate(losses, start=1) if math.isfinite(loss)]
    means = running_mean(steps)
    others = [(step, loss) for step, loss in held_out if math.isfinite(loss)]
    x_ticks = _ticks(max([len(losses), 1, *(step for step, _ in others)]), most=8)
    y_ticks = _ticks(max((loss for _, loss in [*steps, *others]), default=1.0), most=5)

    def at(point: tuple[float, float]) -> str:
        x = LEFT + (RIGHT - LEFT) * point[0] / x_ticks[-1]
        y = BOTTOM - (BOTTOM - TOP) * point[1] / y_ticks[-1]
        return f"{x:.1f},{y:.1f}"

    parts = [_frame(x_ticks, y_ticks), _text(LEFT, 22, title, "start", "title")]
    for kind, points in (("step", steps), ("mean", means), ("held-out", others)):
        shown = _thinned(points)
        if shown:
            parts.append(f'<polyline class="{kind}" points="{" ".join(map(at, shown))}"/>')
    for point in others:
        x, _, y = at(point).partition(",")
        tip = f"held out, after step {point[0]}: {point[1]:.3f}"
        parts.append(f'<circle cx="{x}" cy="{y}" r="3"><title>{tip}</title></circle>')
    legend = "blue: loss of each step and its running mean"
    parts.append(_text(RIGHT, 22, f"{legend}; orange: held out" if others else legend, "end"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(f"Training loss of {title}")}"><style>{_STYLE}</style>'
        f"{''.join(parts)}</svg>\n"
    )


def sparkline(values: Sequence[float], *, width: int = 40) -> str:
    """The curve in one line of text: a bar for the mean of each slice, the highest for the most."""
    width = min(width, len(values))
    edges = [len(values) * column // width for column in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)


def running_mean(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Exponential, over about a twentieth of the points, without a pull to the first of them."""
    weight = 1 - 1 / max(1.0, len(points) / 20)
    total = norm = 0.0
    means = []
    for step, value in points:
        total = weight * total + value
        norm = weight * norm + 1
        means.append((step, total / norm))
    return means


def _thinned(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    stride = max(1, math.ceil(len(points) / MAX_POINTS))
    return [*points[::stride], *points[-1:]]


def _ticks(high: float, *, most: int) -> list[float]:
    """From 0 in steps of 1, 2 or 5 times a power of ten, to the first that reaches `high`."""
    rough = max(high, 1e-9) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [step * number for number in range(max(1, math.ceil(high / step - 1e-9)) + 1)]


def _frame(x_ticks: Sequence[float], y_ticks: Sequence[float]) -> str:
    parts = []
    for value in y_ticks:
        y = BOTTOM - (BOTTOM - TOP) * value / y_ticks[-1]
        kind = "grid" if value else "axis"
        parts.append(f'<line class="{kind}" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 8, y + 4, f"{value:g}", "end"))
    for value in x_ticks:
        x = LEFT + (RIGHT - LEFT) * value / x_ticks[-1]
        parts.append(_text(x, BOTTOM + 18, f"{value:g}", "middle"))
    parts.append(_text(RIGHT, BOTTOM + 38, "step", "end"))
    parts.append(_text(LEFT, TOP - 10, "loss", "start"))
    return "".join(parts)


def _text(x: float, y: float, content: str, anchor: str, kind: str = "") -> str:
    style = f'class="{kind}" ' if kind else ""
    return f'<text {style}x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'
