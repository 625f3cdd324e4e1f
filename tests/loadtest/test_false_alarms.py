"""Checks stay silent on what is no fault, and do not take for sound what they cannot see."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.observations import HostFacts
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.run_facts import LocustTable
from lorry_loadtest.settle import settle
from lorry_loadtest.slo import Objective, is_met
from lorry_loadtest.summary import LevelSummary, summarize
from lorry_loadtest.validity.checks import CHECKS
from lorry_loadtest.validity.finding import CheckResult, Evidence, Finding
from lorry_loadtest.validity.verdict import judge
from tests.loadtest.test_validity import (
    CLOSED,
    MODEL,
    OPEN,
    OVERLOADED,
    declared,
    each,
    every,
    facts,
    finding_of,
    observed,
    warming_up,
    worker,
)
from tests.support.loadtest_records import make_record, make_run
from tests.support.simulated_server import Load, simulate


def status(number: int, run: LevelRun) -> str:
    return finding_of(number, run).status


def untold(record: RequestRecord) -> dict[str, object]:
    """As a server sends that neither states tokens nor splits its time."""
    return {"tokens_stated": False, "server_timings": None}


# --- what cannot be seen


def test_a_server_that_counts_no_tokens_is_not_said_to_send_one_per_event() -> None:
    blind = each(lambda r: untold(r) | {"usage_completion": None})(CLOSED)

    assert (status(3, blind), status(6, blind)) == ("unknown", "unknown")


def test_events_are_held_against_the_servers_count_where_it_states_no_tokens() -> None:
    """Its events may carry several tokens, which is no fault of its accounts."""
    bundled = each(lambda r: untold(r) | {"usage_completion": 2 * r.max_tokens})(CLOSED)

    assert status(3, bundled) == "warn"
    assert status(6, observed(server=())(bundled)) == "unknown"


def test_a_client_that_is_late_does_not_hide_behind_new_connections() -> None:
    def late(record: RequestRecord) -> dict[str, object]:
        begin_ns = record.t_sched_ns + 40_000_000
        ready_ns = begin_ns + 2_000_000
        return {"t_begin_ns": begin_ns, "t_conn_ns": ready_ns, "t_send_ns": ready_ns}

    def slow_to_connect(record: RequestRecord) -> dict[str, object]:
        ready_ns = record.t_sched_ns + 42_000_000
        return {"t_begin_ns": record.t_sched_ns, "t_conn_ns": ready_ns, "t_send_ns": ready_ns}

    assert status(9, each(late)(CLOSED)) == "warn"
    assert status(9, each(slow_to_connect)(CLOSED)) == "pass"


def test_a_worker_that_handed_nothing_over_makes_a_run_invalid() -> None:
    finding = finding_of(14, observed(num_workers=2)(CLOSED))

    assert (finding.status, finding.value) == ("fail", "1 of 2 workers handed nothing over")


# --- what is no fault


def test_a_plan_that_somebody_ended_early_is_not_held_to_its_end() -> None:
    ended = observed(num_planned=10_000, num_due=len(OPEN.records), sent_hash="e" * 64)(OPEN)

    assert (status(9, ended), status(14, ended), status(19, ended)) == ("pass", "pass", "pass")
    assert status(14, observed(num_planned=10_000, num_due=9_000)(OPEN)) == "fail"


def test_each_user_class_has_indices_of_its_own() -> None:
    two = each(lambda r: {"index": r.index // 2, "scenario": f"class {r.index % 2}"})(CLOSED)

    assert status(19, two) == "pass"


def test_conversations_are_as_many_draws_of_an_adapter_as_there_are_of_them() -> None:
    """Half of the load goes to one of three adapters: chance, when each draw is for forty requests."""
    half = each(lambda r: {"adapter": "pirate"} if r.index % 4 == 0 else {})(CLOSED)

    assert status(21, half) == "fail"
    assert status(21, declared(requests_per_draw=40)(half)) == "pass"


def test_each_user_class_is_held_to_what_it_says_itself() -> None:
    """The whole load is neither Poisson's nor of one mix; each class is."""

    def part(run: LevelRun, name: str, adapter: str) -> LevelRun:
        own = each(lambda r: {"scenario": name, "adapter": adapter})(run)
        return replace(declared(adapter_shares={adapter: 1.0})(own), name=name)

    quick = part(OPEN, "quick", "pirate")
    slow = part(simulate(Load(rate_per_s=2.0, duration_s=60.0, seed=8), MODEL), "slow", "pricing")
    wrong = part(OPEN, "wrong", "pricing")
    whole = replace(
        declared(arrival="mixed", rate_per_s=10.0, arrival_cv=None, adapter_shares={})(quick),
        name="",
        records=(*quick.records, *slow.records),
        parts=(quick, slow),
    )

    def found(run: LevelRun) -> dict[int, CheckResult]:
        return {result.number: result for result in judge([run], [summarize(run)]).results}

    fine = found(whole)
    assert [fine[number].finding.status for number in (7, 19, 21)] == ["pass"] * 3
    swapped = found(replace(whole, parts=(slow, declared(adapter_shares={"pirate": 1.0})(wrong))))
    assert (swapped[21].finding.status, swapped[21].level) == ("fail", "wrong")


def test_a_long_queue_before_a_short_answer_is_not_a_buffer() -> None:
    def queued(record: RequestRecord) -> dict[str, object]:
        shift = 60_000_000_000
        moved = tuple(stamp + shift for stamp in record.event_kernel_ns)
        return untold(record) | {"event_kernel_ns": moved, "event_user_ns": moved}

    def emptied_at_once(record: RequestRecord) -> dict[str, object]:
        last = record.event_kernel_ns[-1]
        stamps = tuple(last + 1000 * j for j in range(len(record.event_kernel_ns)))
        return untold(record) | {"event_kernel_ns": stamps, "event_user_ns": stamps}

    assert status(4, each(queued)(CLOSED)) == "pass"
    assert status(4, each(emptied_at_once)(CLOSED)) == "fail"


def test_fewer_cached_tokens_than_there_might_be_only_warn() -> None:
    shared = declared(cached_share=0.9)

    assert status(8, shared(CLOSED)) == "warn"  # a cache that finds nothing
    assert status(8, shared(each(lambda r: {"cached_tokens": None})(CLOSED))) == "pass"


def test_given_texts_are_not_held_to_a_token_per_word() -> None:
    dense = each(lambda r: {"usage_prompt": 3 * r.prompt_tokens_planned})(CLOSED)

    assert status(26, dense) == "fail"
    assert status(26, declared(counts_tokens=False)(dense)) == "unknown"


def test_users_who_leave_are_part_of_the_load() -> None:
    left = every(5, outcome="abandoned", finish_reason=None)(CLOSED)

    assert status(15, left) == "pass"
    assert summarize(left).latencies.e2e_ms.num_censored > 0


def test_locusts_table_has_failures_in_it_and_ours_too() -> None:
    refused = every(
        2,
        outcome="http_429",
        finish_reason=None,
        event_kernel_ns=(),
        event_user_ns=(),
        event_tokens=(),
    )
    run = each(lambda r: {} if r.outcome == "ok" else {"t_end_ns": r.t_sched_ns + 2_000_000})(
        refused(CLOSED)
    )
    half = LocustTable(num_requests=len(run.records), p50_ms=2.0)

    assert status(20, facts(locust=half)(run)) == "pass"


def test_cores_that_are_shared_and_not_wanted_by_anybody_disturb_nobody() -> None:
    def shares(pressure: float | None) -> LevelRun:
        return worker(host=HostFacts(shares_cores=True, pressure_share=pressure))(CLOSED)

    assert status(25, shares(0.02)) == "pass"
    assert status(25, shares(0.10)) == "warn"
    assert status(25, shares(None)) == "warn"


def test_a_late_heartbeat_now_and_then_is_not_saturation() -> None:
    """One in two hundred: each value is the latest of ten."""
    rare = tuple(30.0 if k % 20 == 0 else 1.0 for k in range(400))
    frequent = tuple(30.0 if k % 5 == 0 else 1.0 for k in range(400))

    assert status(1, worker(heartbeat_lags_ms=rare)(CLOSED)) == "pass"
    assert status(1, worker(heartbeat_lags_ms=frequent)(CLOSED)) == "warn"


# --- loads that change, or are too much, on purpose


def test_a_ramp_is_neither_settled_nor_asked_to_be() -> None:
    ramp = declared(arrival="shape", arrival_cv=None)(warming_up(CLOSED))

    assert status(12, ramp) == "unknown"
    assert settle(ramp) is ramp
    assert settle(warming_up(CLOSED)).facts is CLOSED.facts


def beside(*others: LevelRun, number: int, run: LevelRun) -> Finding:
    summaries = [summarize(one) for one in (run, *others)]
    (check,) = [check for check in CHECKS if check.number == number]
    return check.find(Evidence(run, summaries[0], levels=summaries))


def test_a_level_past_the_servers_capacity_is_not_asked_to_be_steady_beside_one_that_holds() -> (
    None
):
    assert summarize(OVERLOADED).falls_behind
    assert not summarize(OPEN).falls_behind
    for number in (10, 12):
        assert beside(OPEN, number=number, run=OVERLOADED).status == "unknown"
        assert beside(number=number, run=OVERLOADED).status in ("warn", "fail")
    refused = every(4, outcome="http_429", finish_reason=None)(OVERLOADED)
    assert beside(OPEN, number=15, run=refused).status == "unknown"
    assert beside(number=15, run=refused).status == "fail"


def test_a_closed_loop_cannot_fall_behind() -> None:
    assert not summarize(simulate(Load(concurrency=64), replace(MODEL, max_batch=2))).falls_behind


def test_many_levels_share_one_chance_of_a_false_alarm() -> None:
    summary = summarize(OPEN)

    assert Evidence(OPEN, summary, levels=[summary] * 10).chance(0.001) == pytest.approx(1e-4)
    assert Evidence(OPEN, summary).chance(0.001) == 0.001


# --- answers that nobody waited for


def test_requests_that_timed_out_stay_in_the_percentiles() -> None:
    quick = [make_record(index=i, events_ms=(100.0 + i, 200.0 + i)) for i in range(180)]
    slow = [make_record(index=i, outcome="timeout_ttft", end_ms=60_000.0) for i in range(180, 200)]
    summary = level(*quick, *slow)

    assert summary.latencies.ttft_ms.p50 == pytest.approx(199.0)
    assert summary.latencies.ttft_ms.above == {"p95": 60_000.0}
    assert summary.latencies.ttft_ms.intervals["p50"].high < 280.0


def test_a_percentile_among_the_cut_off_breaks_an_objective_that_it_is_above() -> None:
    quick = [make_record(index=i, events_ms=(100.0, 200.0)) for i in range(180)]
    slow = [make_record(index=i, outcome="cancelled", end_ms=9_000.0) for i in range(180, 200)]
    ttft = level(*quick, *slow).latencies.ttft_ms

    assert is_met(Objective("ttft", "p95", 500.0), ttft) is False
    assert is_met(Objective("ttft", "p95", 10_000.0), ttft) is None
    assert is_met(Objective("ttft", "p50", 500.0), ttft) is True
    assert is_met(Objective("ttft", "mean", 500.0), ttft) is None  # known to be too low


def test_gaps_which_depend_on_each_other_have_no_interval() -> None:
    latencies = level(*(make_record(events_ms=(1.0, 2.0, 3.0)) for _ in range(50))).latencies

    assert latencies.gap_ms.intervals == {}
    assert set(latencies.max_gap_ms.intervals) == {"p50"}


def level(*records: RequestRecord) -> LevelSummary:
    return summarize(make_run(*records))
