"""The first lines of a report: what the run found, in plain words."""

from __future__ import annotations

from collections.abc import Sequence

from lorry_loadtest.percentiles import Distribution
from lorry_loadtest.summary import LevelSummary


def headline(levels: Sequence[LevelSummary]) -> str:
    """One sentence: the highest throughput, where it was, and how long a first token took there."""
    measured = [level for level in levels if level.ok]
    if not measured:
        return "No request finished inside a measuring window: there is nothing to report."
    best = max(measured, key=lambda level: level.output_tokens_per_s)
    return (
        f"Up to {best.output_tokens_per_s:,.0f} output tokens/s, at "
        f"{format_streams(best.concurrency)}; "
        f"{_highest_shown('TTFT', best.latencies.ttft_ms)} there."
    )


def remarks(levels: Sequence[LevelSummary]) -> tuple[str, ...]:
    """A sentence about the objectives if there are any, and one about failures if there are any."""
    return (*_objectives(levels), *_failures(levels))


def _highest_shown(name: str, distribution: Distribution) -> str:
    """The highest of p95, p90 and p50 that has its samples, else the mean with their number."""
    for statistic in ("p95", "p90", "p50"):
        value: float | None = getattr(distribution, statistic)
        if value is not None:
            return f"{name} {statistic} {format_ms(value)}"
    if distribution.mean is None:
        return f"{name} unknown"
    return f"mean {name} {format_ms(distribution.mean)} of {distribution.n} requests"


def _objectives(levels: Sequence[LevelSummary]) -> list[str]:
    """Up to which level every objective was met, and what ended it."""
    if not levels[0].objectives:
        return []
    wanted = " and ".join(str(result.objective) for result in levels[0].objectives)
    last_met: LevelSummary | None = None
    for level in levels:
        if not all(result.met for result in level.objectives):
            reason = f"{_why_not(level)} at {format_streams(level.concurrency)}"
            if last_met is None:
                return [f"Not shown to meet {wanted}: {reason}."]
            return [f"Meets {wanted} up to {format_streams(last_met.concurrency)}: {reason}."]
        last_met = level
    return [f"Meets {wanted} at every level, up to {format_streams(levels[-1].concurrency)}."]


def _why_not(level: LevelSummary) -> str:
    missed = [result.objective for result in level.objectives if result.met is False]
    return f"{missed[0].metric.upper()} is over it" if missed else "too few requests to tell"


def _failures(levels: Sequence[LevelSummary]) -> list[str]:
    attempted = sum(sum(level.ledger.values()) for level in levels)
    failed = sum(level.num_failed for level in levels)
    return [f"{failed} of {attempted} requests failed."] if failed else []


def format_streams(count: int) -> str:
    return "1 stream" if count == 1 else f"{count} streams"


def format_ms(value: float) -> str:
    """With its unit, in seconds from ten seconds on."""
    return f"{value / 1000:.1f} s" if value >= 10_000 else f"{format_ms_value(value)} ms"


def format_ms_value(value: float) -> str:
    """Three figures, or whole milliseconds."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
