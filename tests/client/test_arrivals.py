"""Open loops: schedules, and a run that keeps to one."""

from __future__ import annotations

import asyncio
import pickle
import statistics
from itertools import islice, pairwise

import pytest

import lorry
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply, completion


async def answer(request: ReceivedRequest, reply: Reply) -> None:
    await reply.json(200, completion("x", finish_reason="stop"))


def gaps_s(arrivals: lorry.Arrivals, n: int) -> list[float]:
    return [later - earlier for earlier, later in pairwise(islice(arrivals.offsets_s(), n))]


def test_constant_arrivals_are_even_and_do_not_drift() -> None:
    times_s = list(islice(lorry.Constant(8).offsets_s(), 1_000_001))

    assert times_s[:3] == [0.0, 0.125, 0.25]
    assert times_s[-1] == 125_000.0


def test_poisson_arrivals_have_exponential_gaps() -> None:
    gaps = gaps_s(lorry.Poisson(50, seed=3), 20_000)

    assert statistics.fmean(gaps) == pytest.approx(1 / 50, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(1 / 50, rel=0.03)


@pytest.mark.parametrize("variation", [0.25, 1.0, 3.0])
def test_gamma_arrivals_have_the_variation_that_was_asked_for(variation: float) -> None:
    gaps = gaps_s(lorry.Gamma(50, variation=variation, seed=3), 50_000)

    assert statistics.fmean(gaps) == pytest.approx(1 / 50, rel=0.05)
    assert statistics.stdev(gaps) * 50 == pytest.approx(variation, rel=0.05)


@pytest.mark.parametrize("kind", [lorry.Poisson, lambda rate, seed: lorry.Gamma(rate, 2, seed)])
def test_a_seed_fixes_the_schedule(kind: type[lorry.Poisson]) -> None:
    first, second, other = kind(5, seed=1), kind(5, seed=1), kind(5, seed=2)

    assert gaps_s(first, 50) == gaps_s(first, 50) == gaps_s(second, 50)
    assert gaps_s(first, 50) != gaps_s(other, 50)


def test_wrong_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match="requests_per_s is 0"):
        lorry.Poisson(0)
    with pytest.raises(ValueError, match="variation is -1"):
        lorry.Gamma(1, variation=-1)
    with pytest.raises(ValueError, match="must not descend"):
        lorry.Trace([0.0, 2.0, 1.0])
    with pytest.raises(ValueError, match="negative or not finite"):
        lorry.Trace([float("nan")])


def test_schedules_pickle_and_unlike_traces_print_unlike() -> None:
    trace = lorry.Trace([0, 0.5, 2])

    assert pickle.loads(pickle.dumps(trace)) == trace
    assert repr(trace).startswith("Trace(3 times, 0 to 2 s")
    assert repr(trace) != repr(lorry.Trace([0, 0.6, 2]))


@pytest.mark.usefixtures("stamps_by_the_loop")
async def test_an_open_loop_keeps_its_rate_within_one_percent() -> None:
    rate, num_requests = 200, 600
    async with FakeLLMServer(answer) as server, lorry.AsyncClient(server.url) as client:
        await client.generate("the connection and its library are there")
        run = client.map(map(str, range(num_requests)), arrivals=lorry.Constant(rate))
        results = await run

    started_ns = [result.timing.created_ns for result in results]
    intended_ns = [result.timing.intended_ns for result in results]
    achieved = (num_requests - 1) / ((started_ns[-1] - started_ns[0]) / 1e9)
    assert achieved == pytest.approx(rate, rel=0.01)
    assert [after - before for before, after in pairwise(intended_ns)] == [5_000_000] * 599
    assert all(s >= i for s, i in zip(started_ns, intended_ns, strict=True))


async def test_a_slow_server_is_asked_no_less_in_an_open_loop() -> None:
    all_are_here = asyncio.Event()

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if len(server.requests) == 30:
            all_are_here.set()
        await all_are_here.wait()
        await answer(request, reply)

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        run = client.map(map(str, range(30)), arrivals=lorry.Poisson(1_000))
        await run

    assert run.stats().max_in_flight == 30


async def test_lateness_counts_from_the_time_that_was_intended() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await asyncio.sleep(0.05)
        await answer(request, reply)

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        run = client.map(["a", "b", "c"], arrivals=lorry.Trace([0, 0, 0]), concurrency=1)
        results = await run

    stats = run.stats()
    assert stats.lateness.max is not None
    assert stats.lateness.max >= 0.1  # two answers of 50 ms came before the third was sent
    assert stats.all.e2e.max is not None
    assert stats.all.e2e.max >= 0.15
    assert len({result.timing.intended_ns for result in results}) == 1
    assert "late" in str(stats)


async def test_a_trace_that_ends_ends_the_run() -> None:
    taken = []
    prompts = (taken.append(number) or str(number) for number in range(100))  # type: ignore[func-returns-value]  # notes what was read
    async with FakeLLMServer(answer) as server, lorry.AsyncClient(server.url) as client:
        results = await client.map(prompts, arrivals=lorry.Trace([0.0, 0.01, 0.02]))

    assert len(results) == 3
    assert taken == [0, 1, 2]
