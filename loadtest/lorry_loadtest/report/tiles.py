"""The figures at the top of the page: the level with the highest throughput, in six tiles."""

from __future__ import annotations

from collections.abc import Sequence

from lorry_loadtest.headline import format_ms, format_streams
from lorry_loadtest.percentiles import Distribution
from lorry_loadtest.summary import LevelSummary


def tiles(levels: Sequence[LevelSummary]) -> str:
    """Six tiles; a percentile without enough samples is n/a, and its tile shows the mean."""
    best = max(levels, key=lambda level: level.output_tokens_per_s)
    latencies = best.latencies
    failed = sum(level.num_failed for level in levels)
    attempted = sum(sum(level.ledger.values()) for level in levels)
    streams = format_streams(best.concurrency)
    cells = [
        _tile("Output tokens/s", f"{best.output_tokens_per_s:,.0f}", f"at {streams}"),
        _tile("Requests/s", f"{best.requests_per_s:.2f}", f"at {streams}"),
        _latency_tile("Time to first token", latencies.ttft_ms),
        _latency_tile("Time per output token", latencies.tpot_ms),
        _latency_tile("End to end", latencies.e2e_ms),
        _tile(
            "Failed requests",
            f"{failed:,}",
            f"of {attempted:,} attempted",
            kind="bad" if failed else "good",
        ),
    ]
    return f'<div class="tiles">{"".join(cells)}</div>'


def _latency_tile(name: str, distribution: Distribution) -> str:
    if distribution.p50 is None:
        mean = "n/a" if distribution.mean is None else format_ms(distribution.mean)
        return _tile(name, mean, f"mean of {distribution.n}; p50 n/a")
    p95 = "n/a" if distribution.p95 is None else format_ms(distribution.p95)
    return _tile(name, format_ms(distribution.p50), f"p50; p95 {p95}")


def _tile(name: str, value: str, note: str, *, kind: str = "") -> str:
    number, space, unit = value.partition(" ")
    return (
        f'<div class="tile {kind}"><span>{name}</span>'
        f"<strong>{number}{f' <small>{unit}</small>' if space else ''}</strong>"
        f"<span>{note}</span></div>"
    )
