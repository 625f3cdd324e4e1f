"""Client and server joined: waterfalls, stalls and their causes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from lorry_loadtest.explain import UnknownRequest, explain
from lorry_loadtest.report.swim_lanes import swim_lanes
from lorry_loadtest.server_steps import ServerStep, read_steps, steps_between
from lorry_loadtest.server_timings import request_timings
from lorry_loadtest.stalls import find_stalls, stall_limit_ms
from lorry_loadtest.waterfall import PARTS, share_that_closes, waterfalls, with_ticks
from tests.support.loadtest_records import make_record
from tests.support.simulated_server import Load, ServerModel, simulate

TIMINGS: dict[str, Any] = {
    "queue_ms": 15.0,
    "prepare_ms": 2.0,
    "adapter_load_ms": 5.0,
    "prefill_ms": 30.0,
    "decode_ms": 38.0,
    "finish_ms": 2.0,
}


def step(index: int, end_ms: float, took_ms: float, **fields: int) -> ServerStep:
    return ServerStep(index=index, t_ns=round(end_ms * 1e6), step_ms=took_ms, **fields)


def test_the_waterfall_of_a_slow_request_shows_when_each_token_came() -> None:
    """At most a few hundred of them, spread over the whole answer."""
    short, long = (
        make_record(
            sched_ms=100, events_ms=tuple(150.0 + 2 * k for k in range(count)), timings=TIMINGS
        )
        for count in (4, 1000)
    )
    ticks = [with_ticks(waterfalls([record])[0], record).tokens_ms for record in (short, long)]

    assert ticks[0] == (50.0, 52.0, 54.0, 56.0)
    assert 200 <= len(ticks[1]) <= 300
    assert (ticks[1][0], ticks[1][-1]) == (50.0, pytest.approx(2048.0, abs=8.0))
    drawn = [with_ticks(waterfalls([record])[0], record) for record in (short, long)]
    lanes = swim_lanes(drawn, names={None: "base"})
    assert lanes.count("v15") == 4 + len(ticks[1])


def test_a_waterfall_has_every_part_and_closes() -> None:
    record = make_record(
        send_ms=3.0,
        conn_ms=2.0,
        events_ms=(50.0, 70.0, 90.0),
        user_ms=(51.0, 71.0, 91.5),
        timings=TIMINGS,
    )

    (fall,) = waterfalls([record])

    assert tuple(fall.parts) == PARTS
    assert fall.parts == pytest.approx(
        {"connect": 2.0, "client": 1.0, "prepare": 2.0, "adapter": 5.0, "queue": 8.0,
         "prefill": 30.0, "decode": 38.0, "finish": 2.0, "network": 2.0, "user": 1.5}
    )  # fmt: skip
    assert fall.e2e_ms == pytest.approx(90.0)
    assert fall.residual_ms == pytest.approx(0.0)
    assert fall.closes


def test_loading_and_preparing_are_within_the_queue_and_counted_once() -> None:
    timings = request_timings(
        {**TIMINGS, "steps": 9, "first_step": 3, "last_step": 40, "total_ms": 85.0}
    )

    assert timings is not None
    assert timings.turn_ms == pytest.approx(8.0)
    assert (timings.steps, timings.first_step, timings.last_step) == (9, 3, 40)
    (fall,) = waterfalls([make_record(events_ms=(50.0, 85.0), timings=TIMINGS)])
    assert sum(fall.parts.values()) == pytest.approx(85.0)
    assert fall.closes


def test_what_one_request_needed_more_than_the_least_is_its_residual() -> None:
    quick = make_record(index=0, events_ms=(47.0, 87.0), timings=TIMINGS)
    slow = make_record(index=1, events_ms=(57.0, 97.0), timings=TIMINGS)

    falls = waterfalls([quick, slow])

    assert [fall.parts["network"] for fall in falls] == pytest.approx([2.0, 2.0])
    assert falls[1].residual_ms == pytest.approx(10.0)
    assert not falls[1].closes
    assert share_that_closes(falls) == 0.5


def test_time_that_both_sides_count_is_a_residual_below_zero() -> None:
    (fall,) = waterfalls([make_record(events_ms=(20.0, 40.0), timings=TIMINGS)])

    assert fall.residual_ms == pytest.approx(-45.0)
    assert not fall.closes


def test_requests_without_timings_have_no_waterfall() -> None:
    assert waterfalls([make_record(events_ms=(1.0,))]) == []
    assert share_that_closes([]) is None
    assert request_timings({"queue_ms": "x"}) is None
    assert request_timings({"elapsed": 3}) is None


def test_the_waterfalls_of_a_simulated_run_close() -> None:
    share = share_that_closes(waterfalls(simulate(Load(duration_s=10), ServerModel()).records))

    assert share is not None
    assert share > 0.99


def test_a_stall_is_blamed_on_the_step_that_took_it() -> None:
    record = make_record(events_ms=(10.0, 20.0, 420.0, 430.0), request_id="r", adapter="sql")
    steps = (
        step(0, 10, 8, decode_tokens=4),
        step(1, 20, 8, decode_tokens=4),
        step(2, 419, 398, decode_tokens=4, prefill_tokens=4096, adapter_attaches=1),
        step(3, 430, 10, decode_tokens=4),
    )

    (stall,) = find_stalls([record], steps)

    assert (stall.event, stall.step, stall.gap_ms) == (1, 2, pytest.approx(400.0))
    assert stall.cause == (
        "step 2 took 398 ms: 4,096 prompt tokens, 4 decoding, 1 adapter attached"
    )


def test_a_pause_without_steps_is_the_servers_standstill() -> None:
    record = make_record(events_ms=(10.0, 20.0, 420.0, 430.0))
    still = (step(0, 10, 8), step(1, 20, 8), step(2, 430, 8))
    busy = tuple(step(i, 20 + 10 * i, 10) for i in range(60))

    assert find_stalls([record], still)[0].cause.startswith(
        ("the server made no step", "no step ran")
    )
    assert "steps without a token for it" in find_stalls([record], busy)[0].cause
    assert find_stalls([record], ())[0].cause == "the server gave no step log"


def test_a_gap_is_a_stall_only_above_five_medians_and_a_quarter_of_a_second() -> None:
    slow = make_record(events_ms=tuple(100.0 * j for j in range(10)))

    assert stall_limit_ms([slow]) == pytest.approx(500.0)
    assert stall_limit_ms([make_record(events_ms=(0.0, 1.0))]) == 250.0
    assert stall_limit_ms([]) == 250.0
    assert find_stalls([slow], ()) == []


def test_a_request_is_explained_by_its_id_or_its_index() -> None:
    record = make_record(
        index=41, request_id="abc", events_ms=(50.0, 90.0), timings=TIMINGS, adapter="sql"
    )

    text = explain("abc", [record], ())

    assert text == explain("41", [record], ())
    for word in (*PARTS, "closes", "no stall", "sql"):
        assert word in text
    with pytest.raises(UnknownRequest, match="there are: abc"):
        explain("nobody", [record], ())


def test_a_request_without_timings_is_explained_from_the_clients_side() -> None:
    text = explain("0", [make_record(events_ms=(50.0, 90.0))], ())

    assert "TTFT 50.0 ms" in text
    assert "the server sent no timings" in text


def test_steps_are_read_in_the_order_of_time_and_those_without_one_left_out() -> None:
    sent = [
        {"index": 2, "t_ns": 30_000_000, "step_ms": 5.0, "batch": 3, "unknown": 1},
        {"index": 1, "t_ns": 20_000_000, "step_ms": 5.0},
        {"index": 0, "step_ms": 5.0},
    ]

    steps = read_steps(sent)

    assert [s.index for s in steps] == [1, 2]
    assert steps_between(steps, 24_000_000, 26_000_000) == (steps[1],)
    assert steps_between(steps, 40_000_000, 50_000_000) == ()
    with pytest.raises(msgspec.ValidationError):
        read_steps([{"index": "x", "t_ns": 1, "step_ms": 1.0}])
