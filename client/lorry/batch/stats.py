"""The statistics of a run: throughput, and exact percentiles for each adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lorry.batch.outcome import Outcome, e2e_from_intended_s, lateness_s
from lorry.distribution import Distribution, describe, format_rate, format_seconds
from lorry.errors import ClientError
from lorry.table import html_table, text_table

_HEAD = (
    "adapter",
    "done",
    "failed",
    "tok/s",
    *("ttft p50", "ttft p95", "ttft p99"),
    *("itl p50", "itl p95"),
    *("e2e p50", "e2e p95", "e2e p99"),
)
_BASE = "base model"


@dataclass(frozen=True, slots=True)
class LatencyStats:
    """Of one adapter, or of all. Latencies are of successes, in seconds.

    `ttft` starts at the sending of the attempt that was answered. `ttft_from_intended` and `e2e`
    start when the request should have been sent, so a schedule that was not kept shows in them.
    `itl` are the single gaps between tokens. `ttft` and `tpot` need streams and `itl` needs
    `token_times`: give `token_times=True`, or their `n` is 0.
    """

    num_done: int
    num_failed: int
    output_tokens_per_s: float
    ttft: Distribution
    ttft_from_intended: Distribution
    tpot: Distribution
    itl: Distribution
    e2e: Distribution


@dataclass(frozen=True, slots=True)
class BatchStats:
    """A run so far. `num_done` counts successes of this run; items from the journal are apart.

    `lateness` says how long after its time a request of an open loop went out. A percentile that
    fewer than ten samples lie beyond is None, and "n/a" where it is shown.
    """

    num_done: int
    num_failed: int
    num_from_journal: int
    elapsed_s: float
    requests_per_s: float
    output_tokens_per_s: float
    max_in_flight: int
    lateness: Distribution
    all: LatencyStats
    by_adapter: Mapping[str | None, LatencyStats]

    def __str__(self) -> str:
        return f"{self._summary()}\n{text_table(_HEAD, self._rows())}"

    def _repr_html_(self) -> str:
        return f"<p>{self._summary()}</p>{html_table(_HEAD, self._rows())}"

    def _summary(self) -> str:
        parts = [
            f"{self.num_done} done, {self.num_failed} failed in {self.elapsed_s:.1f} s",
            f"{format_rate(self.requests_per_s)} requests/s",
            f"at most {self.max_in_flight} in flight",
        ]
        if self.num_from_journal:
            parts.insert(1, f"{self.num_from_journal} from the journal")
        if self.lateness.max:
            parts.append(f"up to {format_seconds(self.lateness.max)} late")
        return ", ".join(parts) + "; ttft and e2e from when a request was due"

    def _rows(self) -> list[list[str]]:
        rows = [_row(name or _BASE, stats) for name, stats in self.by_adapter.items()]
        return rows if len(rows) == 1 else [*rows, _row("all", self.all)]


def batch_stats(outcomes: Sequence[Outcome], *, elapsed_s: float, max_in_flight: int) -> BatchStats:
    """Of what has finished; throughput is over `elapsed_s`."""
    fresh = [outcome for outcome in outcomes if not outcome.from_journal]
    names = sorted({outcome.adapter for outcome in fresh}, key=lambda name: (name is None, name))
    overall = _latencies(fresh, elapsed_s)
    timings = [outcome.timing for outcome in fresh]
    return BatchStats(
        num_done=overall.num_done,
        num_failed=overall.num_failed,
        num_from_journal=len(outcomes) - len(fresh),
        elapsed_s=elapsed_s,
        requests_per_s=_per_second(overall.num_done, elapsed_s),
        output_tokens_per_s=overall.output_tokens_per_s,
        max_in_flight=max_in_flight,
        lateness=describe(lateness_s(timing) for timing in timings if timing is not None),
        all=overall,
        by_adapter={
            name: _latencies([o for o in fresh if o.adapter == name], elapsed_s) for name in names
        },
    )


def _latencies(outcomes: Sequence[Outcome], elapsed_s: float) -> LatencyStats:
    done = [outcome for outcome in outcomes if not isinstance(outcome.result, ClientError)]
    timings = [outcome.timing for outcome in done if outcome.timing is not None]
    return LatencyStats(
        num_done=len(done),
        num_failed=len(outcomes) - len(done),
        output_tokens_per_s=_per_second(sum(outcome.num_tokens for outcome in done), elapsed_s),
        ttft=describe(timing.ttft for timing in timings),
        ttft_from_intended=describe(timing.ttft_from_intended for timing in timings),
        tpot=describe(timing.tpot for timing in timings),
        itl=describe(gap_s for timing in timings for gap_s in timing.itl),
        e2e=describe(e2e_from_intended_s(timing) for timing in timings),
    )


def _per_second(count: int, elapsed_s: float) -> float:
    return count / elapsed_s if elapsed_s > 0 else 0.0


def _row(name: str, stats: LatencyStats) -> list[str]:
    ttft, itl, e2e = stats.ttft_from_intended, stats.itl, stats.e2e
    times = (ttft.p50, ttft.p95, ttft.p99, itl.p50, itl.p95, e2e.p50, e2e.p95, e2e.p99)
    return [
        name,
        str(stats.num_done),
        str(stats.num_failed),
        format_rate(stats.output_tokens_per_s),
        *(format_seconds(value) for value in times),
    ]
