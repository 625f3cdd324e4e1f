"""From records to figures: what one load level gave, overall and per adapter.

Latencies are of the requests that became ready inside the window, followed through the drain.
Rates count what arrived inside the window, whoever asked for it. Neither sees the warm-up.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from lorry_loadtest import metrics
from lorry_loadtest.outcomes import Outcome
from lorry_loadtest.percentiles import Distribution, describe
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.slo import Objective, is_good, is_met

Latency = Callable[[RequestRecord], float | None]


class LevelRun(msgspec.Struct, frozen=True, kw_only=True):
    """What was observed at one number of streams.

    Nanoseconds as in the records: users start at `start_ns`, the window runs from
    `window_start_ns` to `window_end_ns`, and the last answer had come by `drained_ns`.
    `client_cpu_share` is this process's share of one core during the window.
    """

    concurrency: int
    start_ns: int
    window_start_ns: int
    window_end_ns: int
    drained_ns: int
    client_cpu_share: float
    records: tuple[RequestRecord, ...]

    @property
    def window_s(self) -> float:
        return (self.window_end_ns - self.window_start_ns) / 1e9

    @property
    def cohort(self) -> list[RequestRecord]:
        """The requests that became ready inside the window."""
        return [r for r in self.records if self.contains(r.t_sched_ns)]

    def contains(self, stamp_ns: int) -> bool:
        return self.window_start_ns <= stamp_ns < self.window_end_ns


class Latencies(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds, of finished requests only; `gap` is pooled over requests."""

    ttft_ms: Distribution
    ttft_service_ms: Distribution
    tpot_ms: Distribution
    e2e_ms: Distribution
    gap_ms: Distribution
    lag_ms: Distribution


class AdapterSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter's part of a level; `adapter` None is the base model."""

    adapter: str | None
    attempted: int
    ok: int
    output_tokens_per_s: float
    latencies: Latencies


class ServerTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Mean milliseconds of a request as the server split them.

    `rest_ms` is what is left of the client's end to end: network, HTTP and both event loops.
    """

    n: int
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    rest_ms: float


class ObjectiveResult(msgspec.Struct, frozen=True, kw_only=True):
    """`met` is None when there were too few samples to say."""

    objective: Objective
    met: bool | None


class LevelSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the report. `ledger` counts every attempt, those of warm-up and drain too."""

    concurrency: int
    window_s: float
    attempted: int
    ok: int
    requests_per_s: float
    output_tokens_per_s: float
    mean_output_tokens: float | None
    length_share: float | None
    latencies: Latencies
    adapters: tuple[AdapterSummary, ...]
    server: ServerTimes | None
    objectives: tuple[ObjectiveResult, ...]
    goodput_per_s: float | None
    ledger: dict[Outcome, int]
    cached_prompt_share: float | None
    token_mismatches: int
    client_cpu_share: float

    @property
    def num_failed(self) -> int:
        return sum(count for outcome, count in self.ledger.items() if outcome != "ok")


def summarize(run: LevelRun, *, objectives: Sequence[Objective] = ()) -> LevelSummary:
    """Every figure of one level, from its records alone."""
    cohort = run.cohort
    finished = [record for record in cohort if record.outcome == "ok"]
    latencies = _latencies(finished)
    good = [record for record in cohort if is_good(record, objectives)]
    num_ended = sum(1 for r in run.records if r.outcome == "ok" and run.contains(r.t_end_ns))
    return LevelSummary(
        concurrency=run.concurrency,
        window_s=run.window_s,
        attempted=len(cohort),
        ok=len(finished),
        requests_per_s=num_ended / run.window_s,
        output_tokens_per_s=_tokens_per_s(run, run.records),
        mean_output_tokens=_ratio(sum(r.completion_tokens for r in finished), len(finished)),
        length_share=_ratio(
            sum(r.completion_tokens for r in finished), sum(r.max_tokens for r in finished)
        ),
        latencies=latencies,
        adapters=_by_adapter(run, cohort),
        server=_server_times(finished),
        objectives=tuple(
            ObjectiveResult(
                objective=objective,
                met=is_met(objective, getattr(latencies, f"{objective.metric}_ms")),
            )
            for objective in objectives
        ),
        goodput_per_s=len(good) / run.window_s if objectives else None,
        ledger=dict(Counter(record.outcome for record in run.records)),
        cached_prompt_share=_cached_share(finished),
        token_mismatches=sum(metrics.tokens_disagree(record) for record in run.records),
        client_cpu_share=run.client_cpu_share,
    )


def _latencies(finished: Sequence[RequestRecord]) -> Latencies:
    def of(latency: Latency) -> Distribution:
        return describe([value for r in finished if (value := latency(r)) is not None])

    return Latencies(
        ttft_ms=of(metrics.ttft_ms),
        ttft_service_ms=of(metrics.ttft_service_ms),
        tpot_ms=of(metrics.tpot_ms),
        e2e_ms=of(metrics.e2e_ms),
        gap_ms=describe([gap for record in finished for gap in metrics.chunk_gaps_ms(record)]),
        lag_ms=of(metrics.lag_ms),
    )


def _by_adapter(run: LevelRun, cohort: Sequence[RequestRecord]) -> tuple[AdapterSummary, ...]:
    """In the order of names, the base model last."""
    names = {record.adapter for record in run.records}
    summaries = []
    for name in sorted(names, key=lambda name: (name is None, name or "")):
        own = [record for record in cohort if record.adapter == name]
        finished = [record for record in own if record.outcome == "ok"]
        summaries.append(
            AdapterSummary(
                adapter=name,
                attempted=len(own),
                ok=len(finished),
                output_tokens_per_s=_tokens_per_s(
                    run, [record for record in run.records if record.adapter == name]
                ),
                latencies=_latencies(finished),
            )
        )
    return tuple(summaries)


def _tokens_per_s(run: LevelRun, records: Sequence[RequestRecord]) -> float:
    num_tokens = sum(
        metrics.num_tokens_between(record, run.window_start_ns, run.window_end_ns)
        for record in records
    )
    return num_tokens / run.window_s


def _server_times(finished: Sequence[RequestRecord]) -> ServerTimes | None:
    timed = [(r.timings, e2e) for r in finished if r.timings and (e2e := metrics.e2e_ms(r))]
    if not timed:
        return None
    queue = math.fsum(timings.queue_ms for timings, _ in timed) / len(timed)
    prefill = math.fsum(timings.prefill_ms for timings, _ in timed) / len(timed)
    decode = math.fsum(timings.decode_ms for timings, _ in timed) / len(timed)
    e2e = math.fsum(e2e for _, e2e in timed) / len(timed)
    return ServerTimes(
        n=len(timed),
        queue_ms=queue,
        prefill_ms=prefill,
        decode_ms=decode,
        rest_ms=e2e - queue - prefill - decode,
    )


def _cached_share(finished: Sequence[RequestRecord]) -> float | None:
    told = [r for r in finished if r.cached_tokens is not None and r.prompt_tokens is not None]
    return _ratio(
        sum(record.cached_tokens or 0 for record in told),
        sum(record.prompt_tokens or 0 for record in told),
    )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
