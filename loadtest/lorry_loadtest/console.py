"""What the terminal shows: a progress line while it runs and a table at the end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from lorry_loadtest.gate.lines import gate_table
from lorry_loadtest.headline import format_ms_value, format_streams, load_label
from lorry_loadtest.live import LiveSummary
from lorry_loadtest.metrics_compat import CompatTable
from lorry_loadtest.percentiles import Distribution
from lorry_loadtest.result import RunResult
from lorry_loadtest.statistics.quantiles import samples_needed
from lorry_loadtest.summary import LevelSummary

EXIT_NOT_RUN = 2

_SECONDS_BETWEEN_LINES = 5.0


class ProgressLine:
    """Rewrites one line on a terminal; writes a new one every five seconds elsewhere."""

    def __init__(self, stream: TextIO | None = None, *, num_levels: int) -> None:
        self._stream = stream or sys.stderr
        self._rewrites = self._stream.isatty()
        self._num_levels = num_levels
        self._live: LiveSummary | None = None
        self._num_started = 0
        self._last_line_s = 0.0

    def update(self, live: LiveSummary, phase: str, elapsed_s: float, *, num_streams: int) -> None:
        """Tells of a running level what it has done since it began, its warm-up included.

        Sums, because walking through all records twice a second would hold up those who send.
        """
        if live is not self._live:
            self._live = live
            self._num_started += 1
            self._last_line_s = 0.0
        num_done = sum(live.outcomes.values())
        failed = num_done - live.outcomes["ok"]
        of = f"/{self._num_levels}" if self._num_levels else ""
        line = (
            f"[{self._num_started}{of}] {format_streams(num_streams):>11}  {phase:<8}"
            f"{elapsed_s:6.1f} s  {num_done:>5} done  {failed} failed  "
            f"{live.num_tokens / max(elapsed_s, 1e-9):7.1f} tokens/s"
        )
        if self._rewrites:
            self._stream.write(f"\r{line}\x1b[K")
        elif elapsed_s - self._last_line_s >= _SECONDS_BETWEEN_LINES:
            self._last_line_s = elapsed_s
            self._stream.write(f"{line}\n")
        self._stream.flush()

    def clear(self) -> None:
        if self._rewrites:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def refused(command: str, why: object) -> int:
    """Says on the standard error why nothing was done, and returns the exit code of that."""
    print(f"{command}: {why}", file=sys.stderr)
    return EXIT_NOT_RUN


def compat_lines(table: CompatTable) -> str:
    """The figures by another tool's formulas."""
    lines = [
        f"By the formulas of {table.tool}: {table.num_requests} requests, "
        f"{table.tokens_per_s:,.2f} output tokens/s"
    ]
    lines.extend(
        f"  {figure.name:<16} mean {figure.mean:>10,.2f}  p50 {figure.p50:>10,.2f}  "
        f"p99 {figure.p99:>10,.2f} ms"
        for figure in table.figures
    )
    return "\n".join(lines)


def verdict_lines(result: RunResult) -> list[str]:
    """What came of it: the answer, the gate, another tool's figures, the verdict with its reasons."""
    lines = [result.headline, *result.remarks]
    if result.gate:
        lines.append(gate_table(result.gate))
    if result.compat is not None:
        lines.append(compat_lines(result.compat))
    lines.append(f"Verdict: {result.verdict.word}")
    lines.extend(
        f"  {alarm.finding.status.upper()} {alarm.number} {alarm.name}: {alarm.finding.value} "
        f"(wanted: {alarm.finding.limit})"
        for alarm in result.verdict.alarms
    )
    return lines


def level_table(levels: Sequence[LevelSummary]) -> str:
    """One row per level, with a line that explains n/a where there is one."""
    header = [
        "load",
        "req/s",
        "tokens/s",
        "TTFT mean",
        "p50",
        "p95",
        "TPOT mean",
        "p50",
        "p95",
        "E2E mean",
        "p50",
        "ok",
        "failed",
    ]
    rows = [
        [
            load_label(level),
            f"{level.requests_per_s:.2f}",
            f"{level.output_tokens_per_s:.1f}",
            *(_cell(level.latencies.ttft_ms, statistic) for statistic in ("mean", "p50", "p95")),
            *(_cell(level.latencies.tpot_ms, statistic) for statistic in ("mean", "p50", "p95")),
            *(_cell(level.latencies.e2e_ms, statistic) for statistic in ("mean", "p50")),
            str(level.ledger.get("ok", 0)),
            str(level.num_failed),
        ]
        for level in levels
    ]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["  ".join(cell.rjust(widths[i]) for i, cell in enumerate(r)) for r in [header, *rows]]
    lines.insert(1, "  ".join("-" * width for width in widths))
    legend = "Latencies in ms."
    if any("n/a" in row for row in rows):
        legend += f" n/a: a p50 needs {samples_needed(0.5)} requests, a p95 {samples_needed(0.95)}."
    return "\n".join([*lines, legend])


def _cell(distribution: Distribution, statistic: str) -> str:
    value: float | None = getattr(distribution, statistic)
    return "n/a" if value is None else format_ms_value(value)
