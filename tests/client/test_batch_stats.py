"""The statistics of a run."""

from __future__ import annotations

import math
import pickle
from array import array

import pytest

import lorry
from lorry.batch.outcome import Outcome
from lorry.batch.stats import batch_stats
from lorry.distribution import describe, format_rate, format_seconds, quantile, samples_needed
from tests.support.fake_llm_server import (
    FakeLLMServer,
    ReceivedRequest,
    Reply,
    completion,
    usage_chunk,
)

MS = 1_000_000


def outcome(
    index: int, *, adapter: str | None = None, late_ms: int = 0, ttft_ms: int = 0
) -> Outcome:
    """A streamed generation of three tokens, 10 ms apart."""
    created_ns = (1_000 + late_ms) * MS
    first_ns = created_ns + ttft_ms * MS
    timing = lorry.Timing(
        created_ns=created_ns,
        intended_ns=1_000 * MS,
        attempts=(lorry.AttemptTiming(created_ns),),
        first_token_ns=first_ns,
        last_token_ns=first_ns + 20 * MS,
        done_ns=first_ns + 30 * MS,
        token_ns=array("q", [first_ns, first_ns + 10 * MS, first_ns + 20 * MS]),
        num_tokens=3,
        num_events=3,
    )
    generation = lorry.Generation("x", "stop", lorry.Usage(1, 3), timing, f"r{index}", "http://x")
    return Outcome(index, generation, adapter)


def test_percentiles_are_exact_and_only_where_ten_samples_lie_beyond_them() -> None:
    outcomes = [outcome(index, ttft_ms=index) for index in range(1, 201)]
    stats = batch_stats(outcomes, elapsed_s=2.0, max_in_flight=9)

    ttft = stats.all.ttft
    assert (ttft.n, ttft.min, ttft.max) == (200, 0.001, 0.2)
    assert ttft.p50 == pytest.approx(0.1005)
    assert ttft.p95 == pytest.approx(quantile([i / 1000 for i in range(1, 201)], 0.95))
    assert ttft.p99 is None  # a thousand would be needed
    assert stats.all.itl.n == 400
    assert stats.all.itl.p99 is None
    assert stats.all.tpot.mean == pytest.approx(0.010)
    assert (stats.requests_per_s, stats.output_tokens_per_s) == (100, 300)
    assert "n/a" in str(stats)


@pytest.mark.parametrize(("q", "n"), [(0.5, 20), (0.9, 100), (0.95, 200), (0.99, 1000)])
def test_the_floor_of_a_percentile_is_ten_over_its_tail(q: float, n: int) -> None:
    name = f"p{round(q * 100)}"

    assert samples_needed(q) == n
    assert getattr(describe(range(n)), name) is not None
    assert getattr(describe(range(n - 1)), name) is None


def test_each_adapter_has_figures_of_its_own() -> None:
    outcomes = [
        *(outcome(index, adapter="slow", ttft_ms=500) for index in range(30)),
        *(outcome(index, adapter=None, ttft_ms=10) for index in range(30, 60)),
        Outcome(60, lorry.Overloaded("full", status=503), "slow"),
    ]
    stats = batch_stats(outcomes, elapsed_s=1.0, max_in_flight=2)

    assert list(stats.by_adapter) == ["slow", None]
    assert stats.by_adapter["slow"].ttft.p50 == pytest.approx(0.5)
    assert stats.by_adapter["slow"].num_failed == 1
    assert stats.by_adapter[None].ttft.p50 == pytest.approx(0.01)
    assert (stats.num_done, stats.num_failed) == (60, 1)
    table = str(stats).splitlines()
    assert [line.split("  ")[0] for line in table[3:]] == ["slow", "base model", "all"]
    assert "base model</td>" in stats._repr_html_()


def test_lateness_shows_in_what_counts_from_the_intended_time() -> None:
    stats = batch_stats(
        [outcome(index, late_ms=200, ttft_ms=10) for index in range(20)],
        elapsed_s=1.0,
        max_in_flight=1,
    )

    assert stats.lateness.p50 == pytest.approx(0.2)
    assert stats.all.ttft.p50 == pytest.approx(0.01)
    assert stats.all.ttft_from_intended.p50 == pytest.approx(0.21)
    assert stats.all.e2e.p50 == pytest.approx(0.24)


def test_nothing_finished_is_no_error() -> None:
    stats = batch_stats([], elapsed_s=0.0, max_in_flight=0)

    assert stats.requests_per_s == 0
    assert "n/a" in str(stats)
    assert pickle.loads(pickle.dumps(stats)) == stats


async def test_a_streamed_run_knows_its_first_tokens_and_gaps() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        first = completion("a", token_ids=[1])
        second = completion("b", token_ids=[2], finish_reason="length")
        await reply.stream(first, second, usage_chunk(3, 2))

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        run = client.map(map(str, range(25)), concurrency=5, token_times=True)
        await run

    stats = run.stats()
    assert (stats.num_done, stats.max_in_flight) == (25, 5)
    assert (stats.all.ttft.n, stats.all.itl.n, stats.all.e2e.n) == (25, 25, 25)
    assert stats.all.ttft.p50 is not None
    assert 0 < stats.all.ttft.p50 < math.inf


@pytest.mark.parametrize(
    ("value_s", "shown"),
    [(None, "n/a"), (0.0123, "12.3 ms"), (0.4567, "457 ms"), (1.5, "1.5 s"), (1234.5, "1,234 s")],
)
def test_seconds_are_shown_as_people_say_them(value_s: float | None, shown: str) -> None:
    assert format_seconds(value_s) == shown


def test_rates_are_shown_with_three_digits() -> None:
    assert [format_rate(r) for r in (None, 0.1234, 12.34, 1234.5)] == [
        "n/a",
        "0.123",
        "12.3",
        "1,234",
    ]
