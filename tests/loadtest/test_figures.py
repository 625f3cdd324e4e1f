"""Windows, Little's law, fairness and censoring."""

from __future__ import annotations

import msgspec
import pytest

from lorry_loadtest.littles_law import littles_law
from lorry_loadtest.settle import settle, settling
from lorry_loadtest.slo import parse_objectives
from lorry_loadtest.summary import summarize
from tests.support.loadtest_records import make_record, make_run
from tests.support.simulated_server import Load, ServerModel, simulate


def test_a_window_begins_where_the_run_had_settled() -> None:
    cold = [
        make_record(index=i, sched_ms=20.0 * i, events_ms=(20.0 * i + 500.0, 20.0 * i + 510.0))
        for i in range(50)
    ]
    warm = [
        make_record(index=i, sched_ms=20.0 * i, events_ms=(20.0 * i + 50.0, 20.0 * i + 60.0))
        for i in range(50, 400)
    ]
    run = make_run(*cold, *warm, window_ms=(0, 8000))

    settled = settle(run)

    assert settled.window_start_ns == pytest.approx(1_000_000_000, abs=100_000_000)
    assert summarize(settled).latencies.ttft_ms.max == pytest.approx(50.0, abs=460.0)
    assert settle(make_run(*warm, window_ms=(1000, 8000))).window_start_ns == 1_000_000_000


def test_noise_alone_cuts_nothing() -> None:
    run = simulate(Load(), ServerModel())

    assert settling(run).cut_ns == 0
    assert settle(run) is run


def test_concurrency_is_rate_times_time_in_a_steady_window() -> None:
    law = littles_law(simulate(Load(concurrency=8), ServerModel()))

    assert law is not None
    assert law.mean_in_flight == pytest.approx(8.0, abs=0.1)
    assert law.relative_error < 0.03
    assert littles_law(make_run()) is None


def test_requests_that_the_drain_limit_cut_off_stay_in_the_percentiles() -> None:
    finished = [make_record(index=i, events_ms=(100.0 + i, 200.0 + i)) for i in range(180)]
    cut_off = [
        make_record(index=i, outcome="cancelled", events_ms=(90.0,), end_ms=30_000.0)
        for i in range(180, 200)
    ]
    latencies = summarize(make_run(*finished, *cut_off)).latencies

    assert latencies.e2e_ms.p50 == pytest.approx(299.0)
    assert latencies.e2e_ms.p95 is None
    assert latencies.e2e_ms.above == {"p95": 30_000.0}
    assert latencies.ttft_ms.n == 200


def test_a_slow_adapter_shows_beside_the_median_one() -> None:
    def records(adapter: str, ttft_ms: float, start: int) -> list[object]:
        return [
            make_record(
                index=start + i,
                adapter=adapter,
                events_ms=(ttft_ms, ttft_ms + 10.0, ttft_ms + 20.0),
            )
            for i in range(30)
        ]

    run = make_run(*records("a", 50, 0), *records("b", 50, 30), *records("c", 400, 60))  # type: ignore[arg-type]
    fairness = summarize(run).fairness

    assert fairness is not None
    assert fairness.ttft_worst_to_median == pytest.approx(8.0)
    assert fairness.jain_speed == pytest.approx(1.0)


def test_cold_loads_and_known_answers_are_counted_by_adapter() -> None:
    timings = {"queue_ms": 1.0, "prefill_ms": 1.0, "decode_ms": 1.0, "adapter_load_ms": 20.0}
    cold = make_record(index=0, adapter="a", events_ms=(5.0,), timings=timings)
    canary = msgspec.structs.replace(make_record(index=1, adapter="a"), canary="c")
    wrong = msgspec.structs.replace(canary, index=2, outcome="wrong_output")

    (adapter,) = summarize(make_run(cold, canary, wrong)).adapters

    assert (adapter.cold_loads, adapter.canaries, adapter.wrong_canaries) == (1, 2, 1)


def test_goodput_has_a_share_with_an_interval() -> None:
    records = [make_record(index=i, events_ms=(100.0 if i % 4 else 900.0,)) for i in range(100)]

    summary = summarize(make_run(*records), objectives=parse_objectives("ttft_p50<500ms"))

    assert summary.good_share == 0.75
    assert summary.good_share_interval is not None
    assert summary.good_share_interval.low < 0.75 < summary.good_share_interval.high
    assert summary.offered_per_s == 100.0
