"""A run as a block of Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from lorry_loadtest.gate.gate import GateResult
from lorry_loadtest.headline import format_ms_value, load_label
from lorry_loadtest.percentiles import Distribution
from lorry_loadtest.result import RunResult
from lorry_loadtest.summary import LevelSummary


def markdown_block(result: RunResult) -> str:
    """The answer, the verdict with its reasons, the levels, the gate."""
    parts = [
        f"### Load test: {result.verdict.word}",
        result.headline,
        *result.remarks,
        *_alarms(result),
        _levels(result.levels),
        *([_gate(result.gate)] if result.gate else []),
    ]
    made = f"`{result.info.command}` · stream `{result.stream_hash[:12] or 'unknown'}`"
    return "\n\n".join([*map(_escaped, parts), made]) + "\n"  # code is shown as it is


def _alarms(result: RunResult) -> list[str]:
    if not result.verdict.alarms:
        return []
    return [
        "\n".join(
            f"- **{alarm.finding.status.upper()}** {alarm.number} {alarm.name}: "
            f"{alarm.finding.value} (wanted: {alarm.finding.limit})"
            for alarm in result.verdict.alarms
        )
    ]


def _levels(levels: Sequence[LevelSummary]) -> str:
    head = "| load | req/s | tokens/s | TTFT p50 | p95 | TPOT p50 | p95 | ok | failed |"
    rows = [
        f"| {load_label(level)} | {level.requests_per_s:.2f} | {level.output_tokens_per_s:,.1f} | "
        f"{_ms(level.latencies.ttft_ms, 'p50')} | {_ms(level.latencies.ttft_ms, 'p95')} | "
        f"{_ms(level.latencies.tpot_ms, 'p50')} | {_ms(level.latencies.tpot_ms, 'p95')} | "
        f"{level.ledger.get('ok', 0)} | {level.num_failed} |"
        for level in levels
    ]
    return "\n".join([head, "|---|" + "---:|" * 8, *rows])


def _gate(results: Sequence[GateResult]) -> str:
    head = "| limit | baseline | now | change | 95 % interval | power | |"
    rows = [
        f"| {result.limit} | {result.baseline:,.2f} | {result.candidate:,.2f} | "
        f"{100 * (result.ratio - 1):+.1f} % | {100 * (result.low - 1):+.1f} to "
        f"{100 * (result.high - 1):+.1f} % | {result.power:.0%} | **{result.status}** |"
        if result.ratio
        else f"| {result.limit} | | | | | | **{result.status}**: {result.reason} |"
        for result in results
    ]
    return "\n".join([head, "|---|---:|---:|---:|---:|---:|---|", *rows])


def _ms(distribution: Distribution, statistic: str) -> str:
    value: float | None = getattr(distribution, statistic)
    return "n/a" if value is None else f"{format_ms_value(value)} ms"


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;")
