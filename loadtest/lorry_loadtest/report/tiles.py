"""The figures at the top of the page: the level that answers, in eight tiles with intervals."""

from __future__ import annotations

from collections.abc import Sequence

from lorry_loadtest.headline import format_ms, format_ms_value, load_label
from lorry_loadtest.percentiles import Distribution
from lorry_loadtest.statistics.intervals import Interval
from lorry_loadtest.summary import LevelSummary


def answering_level(levels: Sequence[LevelSummary]) -> LevelSummary:
    """The one with the highest throughput of those that meet every objective, else of all.

    One on the way down only where there is no other.
    """
    upwards = [level for level in levels if not level.descending] or list(levels)
    good = [level for level in upwards if level.objectives and all(r.met for r in level.objectives)]
    return max(good or upwards, key=lambda level: level.output_tokens_per_s)


def tiles(levels: Sequence[LevelSummary]) -> str:
    """A percentile without enough samples is n/a, and its tile shows the mean."""
    best = answering_level(levels)
    latencies = best.latencies
    failed = sum(level.num_failed for level in levels)
    attempted = sum(sum(level.ledger.values()) for level in levels)
    place = f"at {load_label(best)}"
    gap = latencies.max_gap_ms
    cells = [
        _tile(
            "Output tokens/s",
            f"{best.output_tokens_per_s:,.0f}",
            _range(best.output_tokens_per_s_interval, ",.0f") or place,
        ),
        _tile(
            "Requests/s",
            f"{best.requests_per_s:.2f}",
            _range(best.requests_per_s_interval, ".2f") or place,
        ),
        _goodput(best, place),
        _latency_tile("Time to first token", latencies.ttft_ms),
        _latency_tile("Time per output token", latencies.tpot_ms),
        _latency_tile("End to end", latencies.e2e_ms),
        _tile(
            "Longest gap of an answer",
            "n/a" if gap.p50 is None else format_ms(gap.p50),
            f"p50; p99 {'n/a' if gap.p99 is None else format_ms(gap.p99)}",
        ),
        _tile(
            "Failed requests",
            f"{failed:,}",
            f"of {attempted:,} attempted",
            kind="bad" if failed else "good",
        ),
    ]
    return f'<div class="tiles">{"".join(cells)}</div>'


def _goodput(level: LevelSummary, place: str) -> str:
    if level.goodput_per_s is None:
        return _tile("Requests under way", f"{_in_flight(level)}", place)
    interval = level.good_share_interval
    told = f"{level.good_share or 0.0:.0%} of attempted"
    if interval is not None:
        told = f"{level.good_share or 0.0:.0%} ({interval.low:.0%} to {interval.high:.0%}) good"
    return _tile("Good requests/s", f"{level.goodput_per_s:.2f}", told)


def _in_flight(level: LevelSummary) -> str:
    return "n/a" if level.littles_law is None else f"{level.littles_law.mean_in_flight:.1f}"


def _latency_tile(name: str, distribution: Distribution) -> str:
    if distribution.p50 is None:
        mean = "n/a" if distribution.mean is None else format_ms(distribution.mean)
        return _tile(name, mean, f"mean of {distribution.n}; p50 n/a")
    notes = [f"{statistic} {_percentile(distribution, statistic)}" for statistic in ("p95", "p99")]
    return _tile(name, format_ms(distribution.p50), f"p50; {', '.join(notes)}")


def _percentile(distribution: Distribution, statistic: str) -> str:
    """With half its interval, where there is one."""
    value: float | None = getattr(distribution, statistic)
    if value is None:
        above = distribution.above.get(statistic)
        return "n/a" if above is None else f"over {format_ms(above)}"
    interval = distribution.intervals.get(statistic)
    if interval is None:
        return format_ms(value)
    return f"{format_ms_value(value)} ±{format_ms_value((interval.high - interval.low) / 2)}"


def _range(interval: Interval | None, form: str) -> str:
    if interval is None:
        return ""
    return f"95 %: {max(0.0, interval.low):{form}} to {interval.high:{form}}"


def _tile(name: str, value: str, note: str, *, kind: str = "") -> str:
    number, space, unit = value.partition(" ")
    return (
        f'<div class="tile {kind}"><span>{name}</span>'
        f"<strong>{number}{f' <small>{unit}</small>' if space else ''}</strong>"
        f"<span>{note}</span></div>"
    )
