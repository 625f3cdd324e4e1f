from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from lorry_loadtest.headline import headline, remarks
from lorry_loadtest.slo import Objective, is_good, parse_objectives
from lorry_loadtest.summary import summarize
from tests.support.loadtest_records import make_record, make_run
from tests.support.simulated_server import Load, ServerModel, simulate

TTFT_P50 = Objective("ttft", "p50", 150.0)


def test_throughput_counts_the_tokens_of_the_window_only() -> None:
    record = make_record(sched_ms=900, events_ms=(950, 1000, 1500, 2000))

    summary = summarize(make_run(record, window_ms=(1000, 2000)))

    assert summary.output_tokens_per_s == 2.0


def test_latencies_are_of_requests_that_became_ready_in_the_window() -> None:
    before = make_record(sched_ms=900, events_ms=(1100,))
    inside = make_record(sched_ms=1900, events_ms=(2500,))
    after = make_record(sched_ms=2000, events_ms=(2010,))

    summary = summarize(make_run(before, inside, after, window_ms=(1000, 2000)))

    assert summary.attempted == 1
    assert summary.latencies.ttft_ms.mean == pytest.approx(600.0)


def test_the_ledger_counts_every_attempt_and_balances() -> None:
    run = make_run(
        make_record(sched_ms=-100, events_ms=(50,)),
        make_record(sched_ms=100, outcome="http_429"),
        make_record(sched_ms=200, outcome="truncated", events_ms=(250,)),
        make_record(sched_ms=300, events_ms=(350,)),
    )

    summary = summarize(run)

    assert summary.ledger == {"ok": 2, "http_429": 1, "truncated": 1}
    assert summary.num_failed == 2
    assert (summary.attempted, summary.ok) == (3, 1)


def test_failed_requests_do_not_make_latencies_better() -> None:
    fast_failure = make_record(outcome="truncated", events_ms=(1,))
    slow_success = make_record(events_ms=(500,))

    summary = summarize(make_run(fast_failure, slow_success))

    assert summary.latencies.ttft_ms.mean == pytest.approx(500.0)


def test_goodput_keeps_failures_in_the_denominator() -> None:
    run = make_run(
        make_record(events_ms=(100,)),
        make_record(events_ms=(200,)),
        make_record(outcome="http_5xx"),
        window_ms=(0, 2000),
    )

    summary = summarize(run, objectives=[TTFT_P50])

    assert summary.goodput_per_s == 0.5


def test_a_good_answer_that_ends_after_the_window_is_among_the_requests_per_second() -> None:
    run = make_run(
        make_record(sched_ms=100, events_ms=(150, 200)),
        make_record(sched_ms=900, events_ms=(950, 1400)),
    )

    summary = summarize(run, objectives=[TTFT_P50])

    assert summary.goodput_per_s == summary.requests_per_s == summary.offered_per_s == 2.0


def test_a_backlog_that_the_drain_works_off_is_no_throughput() -> None:
    records = [
        make_record(index=i, sched_ms=10 * i, events_ms=(100 * (i + 1),)) for i in range(100)
    ]

    summary = summarize(
        make_run(*records, rate_per_s=100.0), objectives=[Objective("ttft", "p50", 60_000.0)]
    )

    assert summary.falls_behind
    assert (summary.offered_per_s, summary.requests_per_s) == (100.0, 9.0)
    assert summary.goodput_per_s == 9.0


LOADS = [
    Load(concurrency=8),
    Load(concurrency=64, duration_s=4.0),
    Load(rate_per_s=6.0),
    Load(rate_per_s=6.0, warmup_s=0.0, duration_s=3.0),
    Load(rate_per_s=40.0, duration_s=10.0),
]


@pytest.mark.parametrize("load", LOADS, ids=str)
@pytest.mark.parametrize("limit_ms", [40.0, 60_000.0])
@pytest.mark.parametrize("fails_every", [1000, 3])
def test_goodput_is_part_of_throughput_and_that_of_the_offered_load_in_every_result(
    load: Load, limit_ms: float, fails_every: int
) -> None:
    model = ServerModel(max_batch=4) if load.rate_per_s == 40.0 else ServerModel()
    for noise_seed in range(4):
        run = simulate(load, model, noise_seed=noise_seed)
        failed = [
            msgspec.structs.replace(record, outcome="truncated")
            if record.index % fails_every == fails_every - 1
            else record
            for record in run.records
        ]
        summary = summarize(
            replace(run, records=tuple(failed)), objectives=[Objective("ttft", "p95", limit_ms)]
        )

        assert summary.goodput_per_s is not None
        assert summary.goodput_per_s <= summary.requests_per_s <= summary.offered_per_s
        assert summary.good_share == pytest.approx(summary.goodput_per_s / summary.offered_per_s)


def test_objectives_are_undecided_with_too_few_samples() -> None:
    few = make_run(*(make_record(events_ms=(100,)) for _ in range(19)))
    enough = make_run(*(make_record(events_ms=(100,)) for _ in range(20)))

    assert summarize(few, objectives=[TTFT_P50]).objectives[0].met is None
    assert summarize(enough, objectives=[TTFT_P50]).objectives[0].met is True


def test_adapters_are_told_apart() -> None:
    run = make_run(
        make_record(adapter="a", events_ms=(100, 200)),
        make_record(adapter=None, events_ms=(300,)),
        make_record(adapter="a", outcome="http_5xx"),
    )

    first, base = summarize(run).adapters

    assert (first.adapter, first.attempted, first.ok) == ("a", 2, 1)
    assert first.output_tokens_per_s == 2.0
    assert (base.adapter, base.attempted) == (None, 1)


def test_objectives_are_read_with_their_units() -> None:
    assert parse_objectives("ttft_p95<500ms, tpot_mean < 0.06s") == (
        Objective("ttft", "p95", 500.0),
        Objective("tpot", "mean", 60.0),
    )


@pytest.mark.parametrize("text", ["ttft<500ms", "ttft_p95<500", "latency_p50<1s", ""])
def test_a_wrong_objective_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is not an objective"):
        parse_objectives(text)


def test_a_latency_that_a_request_does_not_have_breaks_no_limit() -> None:
    single_event = make_record(events_ms=(100,))

    assert is_good(single_event, [Objective("tpot", "p50", 1.0)])


def test_the_headline_takes_the_highest_percentile_that_has_its_samples() -> None:
    few = summarize(make_run(*(make_record(events_ms=(100,)) for _ in range(5))))
    more = summarize(make_run(*(make_record(events_ms=(120,)) for _ in range(200)), concurrency=4))

    assert headline([few]) == (
        "Up to 5 output tokens/s, at 1 stream; mean TTFT 100 ms of 5 requests there."
    )
    assert (
        headline([few, more]) == "Up to 200 output tokens/s, at 4 streams; TTFT p95 120 ms there."
    )


def test_the_headline_says_up_to_where_objectives_hold_and_the_remarks_what_failed() -> None:
    fast = make_run(*(make_record(events_ms=(100,)) for _ in range(20)), concurrency=2)
    slow = make_run(
        *(make_record(events_ms=(200,)) for _ in range(20)),
        make_record(outcome="connect"),
        concurrency=8,
    )
    levels = [summarize(run, objectives=[TTFT_P50]) for run in (fast, slow)]

    assert headline(levels) == (
        "Meets TTFT p50 < 150 ms up to 2 streams = 20 output tokens/s; TTFT is over it at 8 streams."
    )
    assert headline(levels[:1]).endswith(
        "up to 2 streams = 20 output tokens/s, the highest load that was tried."
    )
    assert headline(levels[1:]) == (
        "Not shown to meet TTFT p50 < 150 ms: TTFT is over it at 8 streams."
    )
    assert remarks(levels) == (
        "Up to 20 output tokens/s, at 2 streams; TTFT p50 100 ms there.",
        "1 of 41 requests failed.",
    )


def test_a_small_load_with_too_few_requests_does_not_hide_a_larger_one_that_holds() -> None:
    few = make_run(make_record(events_ms=(100,)), concurrency=1)
    enough = make_run(*(make_record(events_ms=(100,)) for _ in range(20)), concurrency=4)
    levels = [summarize(run, objectives=[TTFT_P50]) for run in (few, enough)]

    assert headline(levels).startswith("Meets TTFT p50 < 150 ms up to 4 streams")
    assert headline(levels[:1]) == (
        "Not shown to meet TTFT p50 < 150 ms: too few requests to tell at 1 stream."
    )


def test_a_run_without_finished_requests_has_a_headline_too() -> None:
    summary = summarize(make_run(make_record(outcome="connect")))

    assert headline([summary]).startswith("No request finished")
    assert remarks([summary]) == ("1 of 1 requests failed.",)
