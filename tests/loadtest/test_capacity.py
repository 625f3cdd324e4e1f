"""Sweeps and the search for the largest load, on a simulated server."""

from __future__ import annotations

import pytest

from lorry_loadtest.find_max import find_max
from lorry_loadtest.headline import headline
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.load_points import LoadPoint, parse_sweep
from lorry_loadtest.slo import parse_objectives
from lorry_loadtest.summary import summarize
from tests.support.loadtest_records import make_record, make_run

TTFT = parse_objectives("ttft_p50<100ms")


class Server:
    """TTFT is 50 ms up to `capacity_per_s`, and 400 ms beyond it."""

    def __init__(self, capacity_per_s: float) -> None:
        self.capacity_per_s = capacity_per_s
        self.points: list[LoadPoint] = []

    def measure(self, point: LoadPoint) -> LevelRun:
        self.points.append(point)
        rate = point.rate_per_s
        assert rate is not None
        ttft_ms = 50.0 if rate <= self.capacity_per_s else 400.0
        records = [
            make_record(
                index=i, sched_ms=1000.0 * i / rate, events_ms=(1000.0 * i / rate + ttft_ms,)
            )
            for i in range(int(60 * rate))
        ]
        return make_run(*records, window_ms=(0, 60_000), rate_per_s=rate)


@pytest.mark.parametrize("capacity", [0.7, 7.4, 100.0])
def test_the_largest_rate_is_found_within_five_percent_and_confirmed(capacity: float) -> None:
    server = Server(capacity)

    found, runs = find_max(server.measure, TTFT)

    assert found.rate_per_s <= capacity <= (found.missed_per_s or 0.0)
    assert (found.missed_per_s or 0.0) / found.rate_per_s <= 1.05
    assert found.limited_by == "TTFT p50"
    assert found.is_confirmed
    assert server.points[-1].rate_per_s == pytest.approx(0.9 * found.rate_per_s)
    assert len(runs) == len(server.points) < 20
    assert [point.index for point in server.points] == list(range(len(runs)))


def test_a_server_that_meets_nothing_is_said_to_meet_nothing() -> None:
    found, runs = find_max(Server(0.0).measure, TTFT)
    levels = [summarize(run, objectives=TTFT) for run in runs]

    assert found.rate_per_s == 0.0
    assert not found.is_confirmed
    assert headline(
        [summarize(Server(1.0).measure(LoadPoint(rate_per_s=1.0)), objectives=TTFT)], found
    ).startswith("Not shown to meet TTFT p50 < 100 ms at any rate")
    assert levels


def test_a_rate_with_too_few_requests_to_tell_is_left_upwards() -> None:
    """A p95 needs 200 requests, of which a minute at one per second has 60."""
    server = Server(7.4)

    found, _ = find_max(server.measure, parse_objectives("ttft_p95<100ms"))

    assert 7.0 < found.rate_per_s <= 7.4
    assert [point.rate_per_s for point in server.points[:4]] == [1.0, 2.0, 4.0, 8.0]


def test_nothing_is_claimed_below_the_lowest_rate_that_can_be_told_of() -> None:
    server = Server(1.5)

    found, _ = find_max(server.measure, parse_objectives("ttft_p95<100ms"))

    assert (found.rate_per_s, found.missed_per_s) == (0.0, 4.0)
    assert found.limited_by == "TTFT p95"


def test_a_server_without_a_limit_is_not_searched_for_ever() -> None:
    class Endless(Server):
        def measure(self, point: LoadPoint) -> LevelRun:
            run = super().measure(LoadPoint(rate_per_s=1.0))
            self.points[-1] = point
            return run

    found, _ = find_max(Endless(1e9).measure, TTFT)

    assert found.missed_per_s is None
    assert found.rate_per_s == 4096.0


def test_the_headline_tells_the_bracket_and_what_limits() -> None:
    server = Server(7.4)
    found, runs = find_max(server.measure, TTFT)

    text = headline([summarize(run, objectives=TTFT) for run in runs], found)

    assert text.startswith("Meets TTFT p50 < 100 ms up to 7.")
    assert "the limit is TTFT p50" in text
    assert "confirmed at 6." in text


def test_a_server_that_falls_behind_does_not_meet_its_objectives() -> None:
    """Every arrival is answered in time in the end, but only after the window."""

    def measure(point: LoadPoint) -> LevelRun:
        rate = point.rate_per_s or 0.0
        records = [
            make_record(
                index=i,
                sched_ms=1000.0 * i / rate,
                events_ms=(1000.0 * i / rate + 10.0,),
                end_ms=1000.0 * i / min(rate, 4.0) + 10.0,
            )
            for i in range(int(60 * rate))
        ]
        return make_run(*records, window_ms=(0, 60_000), rate_per_s=rate)

    found, _ = find_max(measure, TTFT)

    assert found.limited_by == "the server falls behind"
    assert 3.5 < found.rate_per_s < 5.0


def test_a_sweep_goes_up_and_then_down() -> None:
    points = parse_sweep("concurrency:1..8:log2")

    assert [point.concurrency for point in points] == [1, 2, 4, 8, 4, 2, 1]
    assert [point.descending for point in points] == [False] * 4 + [True] * 3
    assert [point.index for point in points] == list(range(7))


def test_a_sweep_may_step_and_may_be_of_rates() -> None:
    assert [p.concurrency for p in parse_sweep("concurrency:4..12:+4")] == [4, 8, 12, 8, 4]
    assert [p.rate_per_s for p in parse_sweep("rate:0.5..1.5:+0.5")] == [0.5, 1.0, 1.5, 1.0, 0.5]
    assert [p.concurrency for p in parse_sweep("concurrency:1..6:log2")][:4] == [1, 2, 4, 6]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("1..8", "is not a sweep"),
        ("concurrency:8..1:log2", "not upwards"),
        ("concurrency:0..8:log2", "not upwards from over 0"),
        ("concurrency:1..1000:+1", "at most 64"),
        ("concurrency:1..3:+0.5", "whole"),
        ("rate:1..8:+0", "goes nowhere"),
    ],
)
def test_a_wrong_sweep_is_refused_by_name(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_sweep(text)
