"""The changing part of the live page: tiles, curves over time, latency against throughput, adapters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from lorry_loadtest.headline import format_ms, format_ms_value
from lorry_loadtest.live import LiveSummary
from lorry_loadtest.live_history import LivePoint
from lorry_loadtest.report.axes import NARROW, axes, dot, nice_ticks, polyline, svg, text

Value = Callable[[LivePoint], float | None]


def live_fragment(points: Sequence[LivePoint], live: LiveSummary) -> str:
    """HTML for the inside of the page; sums are of the whole test, points of intervals."""
    if not points:
        return "<section><p>No test has begun, or nothing has finished yet.</p></section>"
    over_time = [
        _chart("output tokens/s", points, [("p50", lambda p: p.tokens_per_s)]),
        _chart(
            "Time to first token, ms",
            points,
            [("p95", lambda p: p.ttft_p95), ("p50", lambda p: p.ttft_p50)],
        ),
        _chart(
            "Time per output token, ms",
            points,
            [("p95", lambda p: p.tpot_p95), ("p50", lambda p: p.tpot_p50)],
        ),
    ]
    against = [
        _against("Time to first token p95, ms", points, lambda p: p.ttft_p95),
        _against("Time per output token p95, ms", points, lambda p: p.tpot_p95),
        _chart("failed requests/s", points, [("p95", lambda p: p.failed_per_s)]),
    ]
    return (
        f"{_tiles(points[-1], live)}"
        f"<section><h2>In time</h2>{_three(over_time)}</section>"
        f"<section><h2>Latency against throughput</h2>{_three(against)}</section>"
        f"<section><h2>Adapters</h2>{_adapters(live)}</section>"
    )


def _tiles(last: LivePoint, live: LiveSummary) -> str:
    failed = sum(live.outcomes.values()) - live.outcomes["ok"]
    cells = [
        ("Output tokens/s", f"{last.tokens_per_s:,.0f}", "of answers that ended just now"),
        ("Requests/s", f"{last.ok_per_s:.2f}", f"{live.outcomes['ok']:,} so far"),
        ("Time to first token", _ms(last.ttft_p50), f"p50; p95 {_ms(last.ttft_p95)}"),
        ("Failed requests", f"{failed:,}", ", ".join(_failures(live)) or "none"),
    ]
    tiles = "".join(
        f'<div class="tile"><span>{name}</span><strong>{value}</strong><span>{escape(note)}</span></div>'
        for name, value, note in cells
    )
    return f'<div class="tiles">{tiles}</div>'


def _failures(live: LiveSummary) -> list[str]:
    return [f"{name} {count}" for name, count in live.outcomes.most_common() if name != "ok"]


def _three(charts: Sequence[str]) -> str:
    return f'<div class="three">{"".join(f"<figure>{chart}</figure>" for chart in charts)}</div>'


def _chart(name: str, points: Sequence[LivePoint], curves: Sequence[tuple[str, Value]]) -> str:
    """Curves over time; an interval without a value is a gap that the line crosses."""
    highest = max(
        (v for p in points for _, value in curves if (v := value(p)) is not None), default=0
    )
    x_ticks = nice_ticks(points[-1].t_s, most=5)
    y_ticks = nice_ticks(highest * 1.06, most=5)
    x, y, body = axes(NARROW, x_ticks=x_ticks, y_ticks=y_ticks, x_title="seconds", y_title=name)
    # one label above its line and one below, since the lines may lie close together
    for (kind, value), below in zip(curves, (-2.0, 11.0), strict=False):
        line = [(x.at(p.t_s), y.at(v)) for p in points if (v := value(p)) is not None]
        body += polyline(line, kind=f"{kind} curve")
        if line and len(curves) > 1:
            body += text(line[-1][0] + 3, line[-1][1] + below, kind, anchor="start")
    return svg(NARROW.width, NARROW.height, body, label=name)


def _against(name: str, points: Sequence[LivePoint], value: Value) -> str:
    """A point per interval, the latest one marked."""
    told = [(p.tokens_per_s, v) for p in points if (v := value(p)) is not None]
    x_ticks = nice_ticks(max((rate for rate, _ in told), default=0) * 1.04, most=5)
    y_ticks = nice_ticks(max((v for _, v in told), default=0) * 1.06, most=5)
    x, y, body = axes(
        NARROW, x_ticks=x_ticks, y_ticks=y_ticks, x_title="output tokens/s", y_title=name
    )
    for number, (rate, v) in enumerate(told):
        kind = "p95 mark" if number == len(told) - 1 else "past"
        body += dot(x.at(rate), y.at(v), 4.2 if kind != "past" else 2.4, kind=kind)
    return svg(NARROW.width, NARROW.height, body, label=f"{name} against output tokens per second")


def _adapters(live: LiveSummary) -> str:
    names = sorted({part for _, part in live.histograms if part})
    rows = ""
    for name in names:
        cells = ""
        for metric in ("ttft_ms", "tpot_ms", "e2e_ms"):
            histogram = live.histograms.get((metric, name))
            for q in (0.5, 0.95):
                value = histogram.quantile(q) if histogram else None
                cells += f"<td>{'n/a' if value is None else format_ms_value(value)}</td>"
        finished = live.histograms.get(("e2e_ms", name))
        count = finished.n if finished else 0
        rows += f'<tr><th class="left">{escape(name)}</th><td>{count:,}</td>{cells}</tr>'
    heads = "".join(f"<th>{m} p50</th><th>p95, ms</th>" for m in ("TTFT", "TPOT", "End to end"))
    return (
        f'<div class="scroll"><table><thead><tr><th class="left">Adapter</th><th>Requests</th>{heads}</tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _ms(value: float | None) -> str:
    return "n/a" if value is None else format_ms(value)
