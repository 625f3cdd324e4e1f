"""The first lines of a report: what the run found, in plain words, and how figures are written."""

from __future__ import annotations

from collections.abc import Sequence

from lorry_loadtest.find_max import FoundMax
from lorry_loadtest.percentiles import Distribution
from lorry_loadtest.summary import LevelSummary


def headline(levels: Sequence[LevelSummary], found: FoundMax | None = None) -> str:
    """One sentence: how much load the objectives allow, where there are some.

    Otherwise the highest throughput, where it was, and how long a first token took there.
    """
    if not any(level.ok for level in levels):
        return "No request finished inside a measuring window: there is nothing to report."
    if found is not None:
        return _capacity(levels, found)
    return _objectives(levels) or _highest(levels)


def _highest(levels: Sequence[LevelSummary]) -> str:
    best = max((level for level in levels if level.ok), key=lambda level: level.output_tokens_per_s)
    return (
        f"Up to {best.output_tokens_per_s:,.0f} output tokens/s, at "
        f"{load_label(best)}; "
        f"{_highest_shown('TTFT', best.latencies.ttft_ms)} there."
    )


def load_label(level: LevelSummary) -> str:
    """`16 streams` or `7.4 req/s`, with `again` on the way down."""
    if level.rate_per_s is None:
        label = format_streams(level.concurrency)
    else:
        label = f"{format_rate(level.rate_per_s)} req/s"
    return f"{label}, again" if level.descending else label


def short_label(level: LevelSummary) -> str:
    """`16` or `7.4`, with an arrow on the way down."""
    label = str(level.concurrency) if level.rate_per_s is None else format_rate(level.rate_per_s)
    return f"{label} ↓" if level.descending else label


def _capacity(levels: Sequence[LevelSummary], found: FoundMax) -> str:
    """With the bracket of the search: the largest rate that held, the smallest that did not."""
    wanted = " and ".join(str(result.objective) for result in levels[0].objectives)
    if found.rate_per_s <= 0:
        return f"Not shown to meet {wanted} at any rate: {found.limited_by}."
    up_to = f"Meets {wanted} up to {format_rate(found.rate_per_s)} req/s = {found.tokens_per_s:,.0f} output tokens/s"
    if found.missed_per_s is None:
        return f"{up_to}, the highest rate that was tried."
    confirmed = (
        f"confirmed at {format_rate(found.confirmed_at_per_s or 0.0)}"
        if found.is_confirmed
        else f"NOT confirmed at {format_rate(found.confirmed_at_per_s or 0.0)}"
    )
    return f"{up_to} (missed at {format_rate(found.missed_per_s)}, {confirmed}); the limit is {found.limited_by}."


def remarks(levels: Sequence[LevelSummary]) -> tuple[str, ...]:
    """The highest throughput where the headline is about objectives, and failures if there are any."""
    has_objectives = bool(levels[0].objectives) and any(level.ok for level in levels)
    return (*([_highest(levels)] if has_objectives else []), *_failures(levels))


def _highest_shown(name: str, distribution: Distribution) -> str:
    """The highest of p95, p90 and p50 that has its samples, else the mean with their number."""
    for statistic in ("p95", "p90", "p50"):
        value: float | None = getattr(distribution, statistic)
        if value is not None:
            return f"{name} {statistic} {format_ms(value)}"
    if distribution.mean is None:
        return f"{name} unknown"
    return f"mean {name} {format_ms(distribution.mean)} of {distribution.n} requests"


def _objectives(levels: Sequence[LevelSummary]) -> str:
    """Up to which level every objective was met, and what ended it; on the way up only.

    Small loads may have too few requests to tell; a larger one that meets all speaks for them.
    Empty without objectives.
    """
    if not levels[0].objectives:
        return ""
    wanted = " and ".join(str(result.objective) for result in levels[0].objectives)
    upwards = sorted(
        (level for level in levels if not level.descending),
        key=lambda level: (level.rate_per_s or 0.0, level.concurrency),
    )
    first_missed = next(
        (
            place
            for place, level in enumerate(upwards)
            if any(result.met is False for result in level.objectives)
        ),
        len(upwards),
    )
    met = [
        level for level in upwards[:first_missed] if all(result.met for result in level.objectives)
    ]
    if not met:
        worst = upwards[min(first_missed, len(upwards) - 1)]
        return f"Not shown to meet {wanted}: {_why_not(worst)} at {load_label(worst)}."
    best = met[-1]
    up_to = (
        f"Meets {wanted} up to {load_label(best)} = {best.output_tokens_per_s:,.0f} output tokens/s"
    )
    if best is upwards[-1]:
        return f"{up_to}, the highest load that was tried."
    next_level = upwards[min(first_missed, len(upwards) - 1)]
    return f"{up_to}; {_why_not(next_level)} at {load_label(next_level)}."


def _why_not(level: LevelSummary) -> str:
    missed = [result.objective for result in level.objectives if result.met is False]
    return f"{missed[0].metric.upper()} is over it" if missed else "too few requests to tell"


def _failures(levels: Sequence[LevelSummary]) -> list[str]:
    attempted = sum(sum(level.ledger.values()) for level in levels)
    failed = sum(level.num_failed for level in levels)
    return [f"{failed} of {attempted} requests failed."] if failed else []


def format_streams(count: int) -> str:
    return "1 stream" if count == 1 else f"{count} streams"


def format_rate(per_s: float) -> str:
    """Three figures, or whole numbers."""
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.3g}"


def format_ms(value: float) -> str:
    """With its unit, in seconds from ten seconds on."""
    return f"{value / 1000:.1f} s" if value >= 10_000 else f"{format_ms_value(value)} ms"


def format_ms_value(value: float) -> str:
    """Three figures, or whole milliseconds."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
