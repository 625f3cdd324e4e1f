"""A limiter in place of a number as a batch's `concurrency`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import count, pairwise
from typing import Any

import pytest

import lorry
from lorry.testing import Answer, FakeServer
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply, completion

SLOWLY = Answer(text="x", first_token_s=0.02)


async def test_as_many_items_are_in_flight_as_the_limiter_lets_be() -> None:
    async with FakeServer(SLOWLY) as server, lorry.AsyncClient(server.url) as client:
        run = client.map([str(i) for i in range(30)], concurrency=lorry.Limit(3))
        results = await run

    assert len(results) == 30
    assert server.most_open == run.stats().max_in_flight == 3
    assert max(result.timing.queue or 0.0 for result in results) > 0.0


async def test_batches_may_share_a_limiter() -> None:
    limit = lorry.Limit(3)
    async with FakeServer(SLOWLY) as server, lorry.AsyncClient(server.url) as client:
        await asyncio.gather(
            *(client.generate_many(["a"] * 10, concurrency=limit) for _ in range(3))
        )

    assert server.most_open == 3
    assert (limit.num_in_flight, limit.num_queued) == (0, 0)


async def test_the_input_is_read_no_further_than_the_limiter_and_the_window_let() -> None:
    num_read = 0

    def prompts() -> Iterator[str]:
        nonlocal num_read
        for number in count():
            num_read += 1
            yield str(number)

    async with (
        FakeServer() as server,
        lorry.AsyncClient(server.url) as client,
        client.map(prompts(), concurrency=lorry.Limit(2), window=4) as run,
    ):
        for num_taken in range(20):
            # what is read: those taken, those with a permit, and the window
            assert num_read <= num_taken + 2 + 4
            await anext(run)
        await asyncio.sleep(0.05)  # nobody takes: nothing more is read
        assert num_read <= 20 + 2 + 4


async def test_an_adapter_that_has_its_share_keeps_no_other_waiting() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if request.json["model"] == "slow":
            await reply.client_left()
        else:
            await reply.json(200, completion(request.json["prompt"], finish_reason="stop"))

    items = [lorry.Request(f"{i}", adapter="slow") for i in range(4)] + ["fast", "too"]
    async with (
        FakeLLMServer(script) as server,
        lorry.AsyncClient(server.url) as client,
        client.map(items, concurrency=lorry.Limit(4, per_adapter=1), order="completion") as run,
    ):
        texts = [(await anext(run)).text for _ in range(2)]

    assert texts == ["fast", "too"]


async def test_a_limiter_that_lets_more_begin_is_not_kept_waiting_for_an_end() -> None:
    all_open = asyncio.Event()

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if len(server.requests) == 6:
            all_open.set()
        await all_open.wait()
        await reply.json(200, completion("x", finish_reason="stop"))

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        rate = lorry.RateLimit(requests_per_s=200, burst_s=0.01)
        async with asyncio.timeout(20):
            await client.map(["a"] * 6, concurrency=rate, window=2)

    assert len(server.requests) == 6


@pytest.mark.parametrize("several", [False, True], ids=["alone", "among others"])
async def test_a_limiter_that_is_the_clients_too_is_asked_once(several: bool) -> None:
    limit = lorry.Limit(1)
    own: Any = [lorry.Limit(5), limit] if several else limit
    async with FakeServer() as server, lorry.AsyncClient(server.url, limit=own) as client:
        async with asyncio.timeout(20):
            results = await client.map(["a", "b", "c"], concurrency=limit)

    assert len(results) == 3


async def test_the_clients_own_limit_holds_besides() -> None:
    async with (
        FakeServer(SLOWLY) as server,
        lorry.AsyncClient(server.url, limit=2) as client,
    ):
        await client.map(["a"] * 10, concurrency=lorry.Limit(5))

    assert server.most_open == 2


async def test_a_schedule_is_kept_and_the_wait_for_a_permit_shows_as_a_queue() -> None:
    async with FakeServer(SLOWLY) as server, lorry.AsyncClient(server.url) as client:
        run = client.map(
            ["a"] * 10, arrivals=lorry.Constant(1000), concurrency=lorry.Limit(1), window=None
        )
        results = await run

    assert server.most_open == 1
    for before, after in pairwise(result.timing for result in results):
        assert before.done_ns is not None
        assert after.admitted_ns is not None
        assert after.admitted_ns >= before.done_ns
        assert after.queue == (after.admitted_ns - after.created_ns) / 1e9


def test_what_is_neither_a_number_nor_a_limiter_is_named() -> None:
    client: Any = lorry.AsyncClient("http://x")

    for wrong in ("many", True, lorry.Limit, [3]):
        with pytest.raises(TypeError, match=r"concurrency is .* whole number, a lorry\.Limit"):
            client.map(["a"], concurrency=wrong)
