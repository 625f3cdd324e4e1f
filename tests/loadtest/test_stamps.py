"""Stamps of what arrives, against a mock server in this process that knows when it wrote."""

from __future__ import annotations

import sys
import time
from array import array
from itertools import pairwise

import gevent
import pytest

from lorry_loadtest.calibration import calibrate_against, compare_stamps, send_schedule
from lorry_loadtest.endpoint import parse_endpoint
from lorry_loadtest.histogram import LogHistogram
from lorry_loadtest.mock_server import MockServer
from lorry_loadtest.mock_stream import MockTimes
from lorry_loadtest.wall_clock import WallClock, offset_now_ns
from tests.support.mock_llm_server import running_mock

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux stamps what it receives"
)


@linux_only
def test_the_kernels_stamps_are_right_while_the_loop_is_blocked() -> None:
    """Most events come while nobody looks; the stamps of a reader that looked late would be tens of
    milliseconds off."""
    times_ns = array("q", range(0, 200_000_000, 10_000_000))
    blocker = gevent.spawn(block_for_ever)
    try:
        with running_mock(MockServer(times=MockTimes(first_ms=30, gap_ms=15))) as mock:
            found = calibrate_against(parse_endpoint(mock.url), times_ns, num_tokens=20)
    finally:
        blocker.kill()

    assert (found.num_requests, found.num_events, found.kernel_stamps) == (20, 400, 1.0)
    assert found.ttft_error_p50_ms < 1.0
    assert found.gap_error_p50_ms < 1.0


def block_for_ever() -> None:
    while True:
        until_s = time.perf_counter() + 0.05
        while time.perf_counter() < until_s:
            pass
        gevent.sleep(0.05)


@linux_only
def test_every_event_has_a_kernel_stamp_between_its_writing_and_its_reading() -> None:
    with running_mock(MockServer(times=MockTimes(first_ms=5, gap_ms=3))) as mock:
        records, origin_ns = send_schedule(
            parse_endpoint(mock.url), array("q", [0, 1_000_000]), num_tokens=12
        )
        served = {one.request_id: one for one in mock.server.served}

    slack_ns = 200_000  # the two clocks are brought together to much better than that
    for record in records:
        assert record.kernel_stamps
        assert record.t_done_ns is not None
        sent_ns = [stamp - origin_ns for stamp in served[record.request_id or ""].sent_ns]
        for kernel, user, sent in zip(
            record.event_kernel_ns, record.event_user_ns, sent_ns, strict=True
        ):
            assert sent - slack_ns <= kernel <= user + slack_ns


def test_events_of_one_read_share_its_stamp() -> None:
    faults = {0: "coalesced"}
    with running_mock(MockServer(times=MockTimes(first_ms=5, gap_ms=3), faults=faults)) as mock:  # type: ignore[arg-type]
        (record,), _ = send_schedule(parse_endpoint(mock.url), array("q", [0]), num_tokens=8)

    assert record.event_tokens == (1,) * 8
    assert len(set(record.event_ns)) < 8
    assert list(record.event_ns) == sorted(record.event_ns)


def test_errors_are_of_first_stamps_and_of_gaps() -> None:
    ttft, gap = compare_stamps([([5_000_000, 7_000_000], [4_000_000, 7_500_000])])

    assert ttft == [1.0]
    assert gap == [1.5]


def test_the_wall_clock_is_followed_through_the_run() -> None:
    clock = WallClock()
    first = clock.samples[0]

    clock.refresh(first.t_ns + 50_000_000)
    assert len(clock.samples) == 1  # fresh enough
    clock.refresh(first.t_ns + 2_000_000_000)
    assert len(clock.samples) == 2
    assert clock.offset_ns == pytest.approx(offset_now_ns(), abs=5_000_000)


def test_a_merged_histogram_is_that_of_all_samples() -> None:
    values = [1.5**k for k in range(30)]
    whole, even, odd = LogHistogram(), LogHistogram(), LogHistogram()
    for place, value in enumerate(values):
        whole.add(value)
        (odd if place % 2 else even).add(value)

    even.merge(LogHistogram(odd.buckets))

    assert even.buckets == whole.buckets
    for q, value in ((1 / 30, values[0]), (0.5, values[14]), (1.0, values[-1])):
        assert whole.quantile(q) == pytest.approx(value, rel=0.011)
    assert all(a < b for a, b in pairwise([whole.quantile(q) or 0 for q in (0.1, 0.5, 0.9)]))
    assert LogHistogram().quantile(0.5) is None
