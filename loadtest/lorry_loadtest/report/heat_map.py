"""Adapters of one level as a heat map: the warmer a cell, the worse against the median adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape

from lorry_loadtest.headline import format_ms_value
from lorry_loadtest.percentiles import Distribution
from lorry_loadtest.run_info import RunInfo
from lorry_loadtest.statistics.quantiles import quantile
from lorry_loadtest.summary import AdapterSummary, LevelSummary

MAX_ROWS = 40
_STEPS = (1.1, 1.25, 1.5, 2.0, 3.0)

Cell = Callable[[AdapterSummary], float | None]


def heat_map(level: LevelSummary, *, info: RunInfo, colors: Mapping[str | None, str]) -> str:
    """A row per adapter, the most damaged first. Damage is its worst ratio and its failures."""
    adapters = level.adapters
    columns: list[tuple[str, Cell]] = [
        ("TTFT p50", lambda adapter: _shown(adapter.latencies.ttft_ms, "p50")),
        ("TTFT p95", lambda adapter: _shown(adapter.latencies.ttft_ms, "p95")),
        ("TPOT p50", lambda adapter: _shown(adapter.latencies.tpot_ms, "p50")),
        ("TPOT p95", lambda adapter: _shown(adapter.latencies.tpot_ms, "p95")),
    ]
    medians = [_median([cell(adapter) for adapter in adapters]) for _, cell in columns]

    def damage(adapter: AdapterSummary) -> float:
        ratios = [
            value / median
            for (_, cell), median in zip(columns, medians, strict=True)
            if median and (value := cell(adapter)) is not None
        ]
        failed = (adapter.attempted - adapter.ok) / max(1, adapter.attempted)
        return max(ratios, default=0.0) + 10 * failed + 100 * adapter.wrong_canaries

    head = (
        '<tr><th class="left">Adapter</th><th class="left">Share of requests</th><th>wanted</th>'
        "<th>Requests</th><th>Output tokens/s</th>"
        + "".join(f"<th>{name}, ms</th>" for name, _ in columns)
        + "<th>Cold loads</th><th>Failed</th><th>Known answers</th></tr>"
    )
    ordered = sorted(adapters, key=damage, reverse=True)
    rows = "".join(
        _row(adapter, level, columns, medians, info=info, color=colors[adapter.adapter])
        for adapter in ordered[:MAX_ROWS]
    )
    rest = len(ordered) - MAX_ROWS
    note = f'<p class="lead">{rest} more, none of them worse.</p>' if rest > 0 else ""
    return (
        f'<div class="scroll"><table class="heat"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
        f"{note}"
    )


def _row(
    adapter: AdapterSummary,
    level: LevelSummary,
    columns: list[tuple[str, Cell]],
    medians: list[float | None],
    *,
    info: RunInfo,
    color: str,
) -> str:
    name = adapter.adapter or info.base_model
    share = adapter.attempted / max(1, level.attempted)
    cells = "".join(
        _cell(cell(adapter), median) for (_, cell), median in zip(columns, medians, strict=True)
    )
    failed = adapter.attempted - adapter.ok
    failed_kind = ' class="bad"' if failed else ""
    answers = f"{adapter.canaries - adapter.wrong_canaries}/{adapter.canaries}"
    known = (
        '<td class="na">none</td>'
        if not adapter.canaries
        else f'<td class="{"bad" if adapter.wrong_canaries else "met"}">{answers}</td>'
    )
    return (
        f'<tr><th class="left"><i class="key {color}"></i>{escape(name)}'
        f"{'' if adapter.adapter else ' <small>base model</small>'}</th>"
        f'<td class="left"><span class="bar"><i class="{color}" style="width:{share:.0%}"></i></span> '
        f"{share:.0%}</td><td>{info.adapters.get(name, 0.0):.0%}</td>"
        f"<td>{adapter.attempted:,}</td><td>{adapter.output_tokens_per_s:,.1f}</td>{cells}"
        f"<td>{adapter.cold_loads}</td>"
        f"<td{failed_kind}>{failed}</td>{known}</tr>"
    )


def _cell(value: float | None, median: float | None) -> str:
    if value is None:
        return '<td class="na">n/a</td>'
    ratio = value / median if median else 1.0
    heat = sum(ratio >= step for step in _STEPS)
    return f'<td class="heat{heat}" title="{ratio:.2f} x the median adapter">{format_ms_value(value)}</td>'


def _shown(distribution: Distribution, statistic: str) -> float | None:
    value: float | None = getattr(distribution, statistic)
    return value


def _median(values: list[float | None]) -> float | None:
    known = sorted(value for value in values if value is not None)
    return quantile(known, 0.5) if known else None
