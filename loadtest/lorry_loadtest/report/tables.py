"""The tables of the page: levels, objectives and the ledger of attempts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lorry_loadtest.headline import format_ms_value, load_label, short_label
from lorry_loadtest.outcomes import MEANING, OUTCOMES
from lorry_loadtest.percentiles import Distribution
from lorry_loadtest.summary import LevelSummary


def level_rows(levels: Sequence[LevelSummary]) -> str:
    """One row per level."""
    head = (
        '<tr><th rowspan="2">Load</th><th rowspan="2">Requests/s</th>'
        '<th rowspan="2">Output tokens/s</th><th colspan="4">TTFT, ms</th><th colspan="3">TPOT, ms</th>'
        '<th colspan="3">End to end, ms</th><th colspan="2">Chunk gap, ms</th>'
        '<th rowspan="2">Requests</th><th rowspan="2">Failed</th></tr>'
        "<tr><th>mean</th><th>p50</th><th>p95</th><th>p99</th><th>mean</th><th>p50</th><th>p95</th>"
        "<th>mean</th><th>p50</th><th>p95</th><th>p99</th><th>max</th></tr>"
    )
    return f"<table><thead>{head}</thead><tbody>{''.join(map(_level_row, levels))}</tbody></table>"


def _level_row(level: LevelSummary) -> str:
    latencies = level.latencies
    cells = [
        f"<th>{load_label(level)}</th>",
        _number(f"{level.requests_per_s:.2f}"),
        _number(f"<b>{level.output_tokens_per_s:,.1f}</b>"),
        _latencies(latencies.ttft_ms, "mean", "p50", "p95", "p99"),
        _latencies(latencies.tpot_ms, "mean", "p50", "p95"),
        _latencies(latencies.e2e_ms, "mean", "p50", "p95"),
        _latencies(latencies.gap_ms, "p99", "max"),
        _number(f"{level.ok}"),
        _failed(level.num_failed),
    ]
    return f"<tr>{''.join(cells)}</tr>"


def objective_rows(levels: Sequence[LevelSummary]) -> str:
    """One row per objective, one column per level, and how many requests were good."""
    streams = "".join(f"<th>{short_label(level)}</th>" for level in levels)
    rows = ""
    for number, first in enumerate(levels[0].objectives):
        cells = "".join(_verdict(level.objectives[number].met) for level in levels)
        rows += f'<tr><th class="left">{escape(str(first.objective))}</th>{cells}</tr>'
    goodput = "".join(_number(f"{level.goodput_per_s or 0.0:.2f}") for level in levels)
    return (
        f'<table><thead><tr><th class="left">{_unit(levels)}</th>{streams}</tr></thead><tbody>{rows}'
        f'<tr><th class="left">Good requests/s</th>{goodput}</tr></tbody></table>'
    )


def _verdict(met: bool | None) -> str:
    if met is None:
        return '<td class="na">too few</td>'
    return '<td class="met">met</td>' if met else '<td class="missed">missed</td>'


def ledger_rows(levels: Sequence[LevelSummary]) -> str:
    """attempted = ok + failed by class, of all attempts, warm-up and drain included."""
    streams = "".join(f"<th>{short_label(level)}</th>" for level in levels)
    head = (
        f'<tr><th class="left">{_unit(levels)}</th>{streams}<th>all</th><th class="left"></th></tr>'
    )
    rows = ""
    for outcome in OUTCOMES:
        counts = [level.ledger.get(outcome, 0) for level in levels]
        if outcome != "ok" and not sum(counts):
            continue
        cells = "".join(_number(str(count)) if count else _number("·") for count in counts)
        kind = "" if outcome == "ok" else ' class="bad"'
        rows += (
            f'<tr{kind}><th class="left">{outcome}</th>{cells}<td><b>{sum(counts)}</b></td>'
            f'<td class="left note">{escape(MEANING[outcome])}</td></tr>'
        )
    totals = [sum(level.ledger.values()) for level in levels]
    cells = "".join(_number(str(total)) for total in totals)
    foot = (
        f'<tr><th class="left">attempted</th>{cells}<td><b>{sum(totals)}</b></td>'
        '<td class="left note">the sum of the rows above</td></tr>'
    )
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody><tfoot>{foot}</tfoot></table>"


def _unit(levels: Sequence[LevelSummary]) -> str:
    return "Streams" if levels[0].rate_per_s is None else "Requests/s"


def _number(content: str) -> str:
    return f"<td>{content}</td>"


def _failed(count: int) -> str:
    return f'<td class="bad"><b>{count}</b></td>' if count else "<td>0</td>"


def _latencies(distribution: Distribution, *statistics: str) -> str:
    return "".join(_latency(distribution, statistic) for statistic in statistics)


def _latency(distribution: Distribution, statistic: str) -> str:
    value: float | None = getattr(distribution, statistic)
    if value is None:
        return f'<td class="na" title="{distribution.n} samples are too few">n/a</td>'
    return f"<td>{format_ms_value(value)}</td>"
