"""The first line of a report: what the run found, in plain words."""

from __future__ import annotations

from collections.abc import Sequence

from lorry_loadtest.percentiles import Distribution, samples_needed
from lorry_loadtest.summary import LevelSummary

_SHOWN = (("p95", 0.95), ("p90", 0.90), ("p50", 0.50))


def verdict_of(levels: Sequence[LevelSummary]) -> str:
    """Objectives first when there are any, then the highest throughput, then failures."""
    measured = [level for level in levels if level.ok]
    if not measured:
        return "No request finished inside a measuring window: there is nothing to report."
    best = max(measured, key=lambda level: level.output_tokens_per_s)
    sentences = [*_objectives(levels), _throughput(best), *_failures(levels)]
    return " ".join(sentences)


def _throughput(best: LevelSummary) -> str:
    streams = "1 stream" if best.concurrency == 1 else f"{best.concurrency} streams"
    return (
        f"Up to {best.output_tokens_per_s:,.0f} output tokens/s, at {streams}; "
        f"{_highest_shown('TTFT', best.latencies.ttft_ms)} there."
    )


def _highest_shown(name: str, distribution: Distribution) -> str:
    """The highest percentile that has its samples, else the mean with their number."""
    for statistic, q in _SHOWN:
        value = getattr(distribution, statistic)
        if value is not None:
            assert distribution.n >= samples_needed(q)
            return f"{name} {statistic} {format_ms(value)}"
    if distribution.mean is None:
        return f"{name} unknown"
    return f"mean {name} {format_ms(distribution.mean)} of {distribution.n} requests"


def _objectives(levels: Sequence[LevelSummary]) -> list[str]:
    """One sentence: up to which level every objective was met."""
    if not levels[0].objectives:
        return []
    wanted = " and ".join(str(result.objective) for result in levels[0].objectives)
    last_met = None
    for level in levels:
        if not all(result.met for result in level.objectives):
            missed = [r.objective for r in level.objectives if r.met is False]
            reason = (
                f"{missed[0].metric.upper()} is the limit"
                if missed
                else f"too few requests at {level.concurrency} to say more"
            )
            if last_met is None:
                return [f"Not shown to meet {wanted} at {level.concurrency} streams: {reason}."]
            return [f"Meets {wanted} up to {last_met} streams; {reason}."]
        last_met = level.concurrency
    return [f"Meets {wanted} at every level, up to {last_met} streams."]


def _failures(levels: Sequence[LevelSummary]) -> list[str]:
    attempted = sum(sum(level.ledger.values()) for level in levels)
    failed = sum(level.num_failed for level in levels)
    return [f"{failed} of {attempted} requests failed."] if failed else []


def format_ms(value: float) -> str:
    """Three figures, in seconds from ten seconds on."""
    if value >= 10_000:
        return f"{value / 1000:.1f} s"
    if value >= 100:
        return f"{value:,.0f} ms"
    return f"{value:.1f} ms" if value >= 10 else f"{value:.2f} ms"
