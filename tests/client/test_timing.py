"""The timing record's definitions, on stamps written by hand."""

from __future__ import annotations

from array import array

import pytest

import lorry
from lorry.timing import Stopwatch

MS = 1_000_000


def test_times_follow_from_the_stamps() -> None:
    timing = lorry.Timing(
        created_ns=10 * MS,
        intended_ns=5 * MS,
        attempts=(
            lorry.AttemptTiming(20 * MS),
            lorry.AttemptTiming(100 * MS, connected_ns=103 * MS, reused_connection=False),
        ),
        admitted_ns=18 * MS,
        first_byte_ns=140 * MS,
        first_token_ns=150 * MS,
        last_token_ns=250 * MS,
        done_ns=260 * MS,
        token_ns=array("q", [150 * MS, 180 * MS, 250 * MS]),
        num_tokens=5,
        num_events=2,
    )

    assert timing.queue == pytest.approx(0.008)
    assert timing.connect == pytest.approx(0.003)
    assert timing.ttfb == pytest.approx(0.040)
    assert timing.ttft == pytest.approx(0.050)
    assert timing.ttft_from_intended == pytest.approx(0.145)
    assert timing.tpot == pytest.approx(0.025)
    assert timing.itl == pytest.approx([0.030, 0.070])
    assert timing.e2e == pytest.approx(0.250)
    assert timing.tokens_per_event == 1.5
    assert timing.reused_connection is False


def test_what_is_not_known_is_none() -> None:
    timing = lorry.Timing(created_ns=0, intended_ns=0)

    assert (timing.queue, timing.connect, timing.ttft, timing.tpot, timing.e2e) == (None,) * 5
    assert (timing.tokens_per_event, timing.reused_connection, timing.itl) == (None, None, [])


def test_tokens_that_share_a_read_with_an_earlier_one_are_buffered() -> None:
    stopwatch = Stopwatch(created_ns=0, intended_ns=0)
    for at_ns, events in ((1, (1,)), (2, (3,)), (3, (1, 2))):
        stopwatch.received(at_ns)
        for num_tokens in events:
            stopwatch.tokens_came(num_tokens)
    timing = stopwatch.snapshot()

    assert timing.num_buffered_tokens == 2 + 2
    assert timing.token_ns == array("q", [1, 2, 2, 2, 3, 3, 3])
    assert timing.tokens_per_event == 7 / 4


def test_snapshot_does_not_change_with_its_stopwatch() -> None:
    stopwatch = Stopwatch(created_ns=0, intended_ns=0)
    attempt = stopwatch.start_attempt(1)
    stopwatch.received(2)
    stopwatch.tokens_came(1)
    snapshot = stopwatch.snapshot()
    attempt.connected_ns = 9
    stopwatch.received(3)
    stopwatch.tokens_came(2)

    assert snapshot.attempts[0].connected_ns is None
    assert snapshot.token_ns == array("q", [2])
    assert stopwatch.snapshot().num_tokens == 3
    assert stopwatch.snapshot(num_tokens=8).num_tokens == 8
    assert stopwatch.snapshot().num_buffered_tokens == 1
