"""Gate results in words, for the terminal and for pull requests."""

from __future__ import annotations

from collections.abc import Sequence

from lorry_loadtest.gate.gate import GateResult


def gate_table(results: Sequence[GateResult]) -> str:
    """One line per limit, with the interval, the power and the reason."""
    lines = []
    for result in results:
        if not result.ratio:
            lines.append(f"{result.status.upper():<10}  {result.limit}: {result.reason}")
            continue
        lines.append(
            f"{result.status.upper():<10}  {result.limit}: {result.baseline:,.2f} -> "
            f"{result.candidate:,.2f} ({_change(result.ratio)}, 95 % interval "
            f"{_change(result.low)} to {_change(result.high)}); power {result.power:.0%}, "
            f"{result.num_pairs} pairs; {result.reason}"
        )
    return "\n".join(lines)


def _change(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"
