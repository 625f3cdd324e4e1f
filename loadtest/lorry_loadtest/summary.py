"""From records to figures: what one load level gave, overall and per adapter.

Latencies are of the requests that became ready inside the window, followed through the drain, and
so are offered load, requests/s and goodput, over the window's length: each is a part of the one
before it. Tokens/s count what arrived inside the window, whoever asked for it. Nothing sees the
warm-up.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from lorry_loadtest import metrics
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.littles_law import LittlesLaw, littles_law
from lorry_loadtest.outcomes import Outcome
from lorry_loadtest.percentiles import Distribution, describe
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.server_timings import request_timings
from lorry_loadtest.settle import BINS_PER_S, tokens_per_bin
from lorry_loadtest.slo import Objective, is_good, is_met
from lorry_loadtest.statistics.fairness import jain_index, worst_to_median
from lorry_loadtest.statistics.intervals import Interval, batch_means_interval, share_interval

Latency = Callable[[RequestRecord], float | None]


class Latencies(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds, of finished requests; `gap` is pooled over requests, `max_gap` one of each.

    TTFT and E2E also know, as censored, the requests that were given up while they ran: by the
    drain limit, by a limit of time, by a user whose patience ended. Gaps of one answer depend on
    each other and on those of others in the same batch, so they have no interval.
    """

    ttft_ms: Distribution
    ttft_service_ms: Distribution
    tpot_ms: Distribution
    e2e_ms: Distribution
    gap_ms: Distribution
    max_gap_ms: Distribution
    lag_ms: Distribution


class AdapterSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One adapter's part of a level; `adapter` None is the base model.

    `cold_loads` are requests that waited for their adapter to be loaded. Of `canaries` known
    answers `wrong_canaries` were not given.
    """

    adapter: str | None
    attempted: int
    ok: int
    output_tokens_per_s: float
    latencies: Latencies
    cold_loads: int = 0
    canaries: int = 0
    wrong_canaries: int = 0


class Fairness(msgspec.Struct, frozen=True, kw_only=True):
    """Between adapters with at least twenty requests: the worst mean TTFT and TPOT over the median
    adapter's, and Jain's index of decoding speed (1: all the same)."""

    adapters: int
    ttft_worst_to_median: float | None
    tpot_worst_to_median: float | None
    jain_speed: float | None


class ServerTimes(msgspec.Struct, frozen=True, kw_only=True):
    """Mean milliseconds of a request as the server split them.

    `queue_ms` is the wait for the first step without `adapter_load_ms`, and `rest_ms` what is left of
    the client's end to end: network, HTTP and both event loops.
    """

    n: int
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    rest_ms: float
    adapter_load_ms: float = 0.0


class ObjectiveResult(msgspec.Struct, frozen=True, kw_only=True):
    """`met` is None when there were too few samples to say."""

    objective: Objective
    met: bool | None


class LevelSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the report. `ledger` counts every attempt, those of warm-up and drain too.

    `offered_per_s` are arrivals in the window, `requests_per_s` those of them that finished, and
    `goodput_per_s` those of these that met every objective, so that goodput <= requests/s <=
    offered. Where the server falls behind (`falls_behind`: an open loop's answers come more slowly
    than its arrivals, beyond chance, and latencies grow with the length of the run) the drain
    finishes what the window did not, and the last two count what finished inside the window.
    `whole_run_tokens_per_s` is what a tool without a window would print. `good_share` is of all
    attempted, failures included. `stream` is the number of the seeded stream that was sent; None
    in results that do not tell, whose levels stand in the order in which they were measured.
    """

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
    rate_per_s: float | None = None
    descending: bool = False
    stream: int | None = None
    falls_behind: bool = False
    offered_per_s: float = 0.0
    requests_per_s_interval: Interval | None = None
    output_tokens_per_s_interval: Interval | None = None
    whole_run_tokens_per_s: float = 0.0
    good_share: float | None = None
    good_share_interval: Interval | None = None
    littles_law: LittlesLaw | None = None
    fairness: Fairness | None = None
    num_events: int = 0
    num_tokens: int = 0

    @property
    def num_failed(self) -> int:
        return sum(count for outcome, count in self.ledger.items() if outcome != "ok")


_MIN_REQUESTS_OF_AN_ADAPTER = 20
_KEPT_UP = 0.95
# Ended by someone who did not wait for the answer: how long it would have taken is not known.
_GIVEN_UP = ("cancelled", "abandoned", "timeout_ttft", "timeout_total", "stalled")


def summarize(run: LevelRun, *, objectives: Sequence[Objective] = ()) -> LevelSummary:
    """Every figure of one level, from its records alone."""
    cohort = run.cohort
    attempts = run.measured
    finished = [record for record in cohort if record.outcome == "ok"]
    latencies = _latencies(cohort)
    ended = [r for r in attempts if r.outcome == "ok" and run.contains(r.t_end_ns)]
    falls_behind = _falls_behind(run, num_offered=len(cohort), num_ended=len(ended))
    counted = ended if falls_behind else finished
    num_good = sum(is_good(record, objectives) for record in counted)
    adapters = _by_adapter(run, cohort, attempts)
    return LevelSummary(
        concurrency=run.concurrency,
        rate_per_s=run.rate_per_s,
        descending=run.descending,
        stream=run.stream,
        falls_behind=falls_behind,
        window_s=run.window_s,
        attempted=len(cohort),
        ok=len(finished),
        offered_per_s=len(cohort) / run.window_s,
        requests_per_s=len(counted) / run.window_s,
        requests_per_s_interval=_rate_interval(
            run, [record.t_end_ns if falls_behind else record.t_sched_ns for record in counted]
        ),
        output_tokens_per_s=_tokens_per_s(run, attempts),
        output_tokens_per_s_interval=_token_rate_interval(run),
        whole_run_tokens_per_s=_whole_run_tokens_per_s(attempts),
        mean_output_tokens=_ratio(sum(r.completion_tokens for r in finished), len(finished)),
        length_share=_ratio(
            sum(r.completion_tokens for r in finished), sum(r.max_tokens for r in finished)
        ),
        latencies=latencies,
        adapters=adapters,
        fairness=_fairness(adapters),
        server=_server_times(finished),
        objectives=tuple(
            ObjectiveResult(
                objective=objective,
                met=is_met(objective, getattr(latencies, f"{objective.metric}_ms")),
            )
            for objective in objectives
        ),
        goodput_per_s=num_good / run.window_s if objectives else None,
        good_share=_ratio(num_good, len(cohort)) if objectives else None,
        good_share_interval=share_interval(num_good, len(cohort)) if objectives else None,
        littles_law=littles_law(run),
        ledger=dict(Counter(record.outcome for record in attempts)),
        cached_prompt_share=_cached_share(finished),
        token_mismatches=sum(metrics.tokens_disagree(record) for record in attempts),
        client_cpu_share=run.client_cpu_share,
        num_events=sum(len(record.event_tokens) for record in finished),
        num_tokens=sum(sum(record.event_tokens) for record in finished),
    )


def _latencies(cohort: Sequence[RequestRecord]) -> Latencies:
    finished = [record for record in cohort if record.outcome == "ok"]
    given_up = [record for record in cohort if record.outcome in _GIVEN_UP]
    gaps = describe([gap for record in finished for gap in metrics.chunk_gaps_ms(record)])

    def of(latency: Latency) -> Distribution:
        return describe([value for r in finished if (value := latency(r)) is not None])

    return Latencies(
        ttft_ms=describe(
            [value for r in (*finished, *given_up) if (value := metrics.ttft_ms(r)) is not None],
            [metrics.duration_ms(r) for r in given_up if not r.event_ns],
        ),
        ttft_service_ms=of(metrics.ttft_service_ms),
        tpot_ms=of(metrics.tpot_ms),
        e2e_ms=describe(
            [value for r in finished if (value := metrics.e2e_ms(r)) is not None],
            [metrics.duration_ms(r) for r in given_up],
        ),
        gap_ms=msgspec.structs.replace(gaps, intervals={}),
        max_gap_ms=of(metrics.max_gap_ms),
        lag_ms=of(metrics.lag_ms),
    )


def _by_adapter(
    run: LevelRun, cohort: Sequence[RequestRecord], attempts: Sequence[RequestRecord]
) -> tuple[AdapterSummary, ...]:
    """In the order of names, the base model last."""
    own_cohort: dict[str | None, list[RequestRecord]] = {}
    own_attempts: dict[str | None, list[RequestRecord]] = {}
    for record in attempts:
        own_attempts.setdefault(record.adapter, []).append(record)
    for record in cohort:
        own_cohort.setdefault(record.adapter, []).append(record)
    return tuple(
        _adapter(run, name, own_cohort.get(name, []), own_attempts[name])
        for name in sorted(own_attempts, key=lambda name: (name is None, name or ""))
    )


def _adapter(
    run: LevelRun,
    name: str | None,
    cohort: Sequence[RequestRecord],
    attempts: Sequence[RequestRecord],
) -> AdapterSummary:
    timings = [request_timings(record.server_timings) for record in cohort]
    canaries = [r for r in attempts if r.canary and r.outcome in ("ok", "wrong_output")]
    return AdapterSummary(
        adapter=name,
        attempted=len(cohort),
        ok=sum(1 for record in cohort if record.outcome == "ok"),
        output_tokens_per_s=_tokens_per_s(run, attempts),
        latencies=_latencies(cohort),
        cold_loads=sum(1 for timing in timings if timing and timing.adapter_load_ms > 0),
        canaries=len(canaries),
        wrong_canaries=sum(1 for record in canaries if record.outcome == "wrong_output"),
    )


def _fairness(adapters: Sequence[AdapterSummary]) -> Fairness | None:
    told = [adapter for adapter in adapters if adapter.ok >= _MIN_REQUESTS_OF_AN_ADAPTER]
    if len(told) < 2:
        return None
    ttfts = [mean for adapter in told if (mean := adapter.latencies.ttft_ms.mean) is not None]
    tpots = [mean for adapter in told if (mean := adapter.latencies.tpot_ms.mean)]
    return Fairness(
        adapters=len(told),
        ttft_worst_to_median=worst_to_median(ttfts),
        tpot_worst_to_median=worst_to_median(tpots),
        jain_speed=jain_index([1 / tpot for tpot in tpots]),
    )


def _tokens_per_s(run: LevelRun, records: Sequence[RequestRecord]) -> float:
    num_tokens = sum(
        metrics.num_tokens_between(record, run.window_start_ns, run.window_end_ns)
        for record in records
    )
    return num_tokens / run.window_s


def _token_rate_interval(run: LevelRun) -> Interval | None:
    return batch_means_interval([count * BINS_PER_S for count in tokens_per_bin(run)])


def _rate_interval(run: LevelRun, stamps_ns: Sequence[int]) -> Interval | None:
    """Of requests per second, by the counts of quarters of a second."""
    num_bins = int(run.window_s * BINS_PER_S)
    counts = [0.0] * num_bins
    for stamp_ns in stamps_ns:
        place = int((stamp_ns - run.window_start_ns) / 1e9 * BINS_PER_S)
        if place < num_bins:
            counts[place] += BINS_PER_S
    return batch_means_interval(counts)


def _falls_behind(run: LevelRun, *, num_offered: int, num_ended: int) -> bool:
    if run.rate_per_s is None:
        return False
    return num_ended < _KEPT_UP * num_offered - math.sqrt(run.window_s)


def _whole_run_tokens_per_s(attempts: Sequence[RequestRecord]) -> float:
    if not attempts:
        return 0.0
    begin = min(record.t_sched_ns for record in attempts)
    end = max(record.t_end_ns for record in attempts)
    num_tokens = sum(sum(record.event_tokens) for record in attempts)
    return num_tokens * 1e9 / (end - begin) if end > begin else 0.0


def _server_times(finished: Sequence[RequestRecord]) -> ServerTimes | None:
    timed = [
        (timings, e2e)
        for record in finished
        if (timings := request_timings(record.server_timings)) and (e2e := metrics.e2e_ms(record))
    ]
    if not timed:
        return None
    n = len(timed)
    load = math.fsum(timings.adapter_load_ms for timings, _ in timed) / n
    queue = math.fsum(timings.queue_ms - timings.adapter_load_ms for timings, _ in timed) / n
    prefill = math.fsum(timings.prefill_ms for timings, _ in timed) / n
    decode = math.fsum(timings.decode_ms for timings, _ in timed) / n
    e2e = math.fsum(e2e for _, e2e in timed) / n
    return ServerTimes(
        n=n,
        adapter_load_ms=load,
        queue_ms=queue,
        prefill_ms=prefill,
        decode_ms=decode,
        rest_ms=e2e - load - queue - prefill - decode,
    )


def _cached_share(finished: Sequence[RequestRecord]) -> float | None:
    told = [r for r in finished if r.cached_tokens is not None and r.usage_prompt is not None]
    return _ratio(
        sum(record.cached_tokens or 0 for record in told),
        sum(record.usage_prompt or 0 for record in told),
    )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
