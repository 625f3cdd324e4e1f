"""A client's limit: who waits for it, for how long, and what a retry does with its place."""

from __future__ import annotations

import asyncio
import gc
import time
import warnings
from typing import Any

import pytest

import lorry
from lorry.loop_lag import LoopLag
from lorry.transports.base import WireRequest, WireResponse
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply, completion

DONE = completion("ok", finish_reason="stop")
# all are connected to in one turn of the loop, and a listener's backlog holds no more than 4,096
NUM_AT_ONCE = 2_000


class Holding:
    """Answers nobody before `let_go`, and notes how many wait at most."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self._came = asyncio.Condition()
        self.num_open = 0
        self.most_open = 0

    async def __call__(self, request: ReceivedRequest, reply: Reply) -> None:
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        async with self._came:
            self._came.notify_all()
        await self.let_go.wait()
        self.num_open -= 1
        if request.json.get("stream"):
            await reply.stream(DONE)
        else:
            await reply.json(200, DONE)

    async def has_open(self, number: int) -> None:
        async with self._came:
            await self._came.wait_for(lambda: self.num_open >= number)


async def test_without_a_limit_all_calls_of_a_gather_are_open_at_once() -> None:
    script = Holding()
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        calls = asyncio.gather(*(client.generate("Hi") for _ in range(NUM_AT_ONCE)))
        await script.has_open(NUM_AT_ONCE)
        in_flight = client.stats().num_in_flight
        script.let_go.set()
        texts = {generation.text for generation in await calls}

    assert in_flight == NUM_AT_ONCE
    assert texts == {"ok"}
    assert client.stats().num_finished == NUM_AT_ONCE


class Counting:
    """A transport on which any number of requests can be open, until `let_go`."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.num_open = 0

    async def send(self, request: WireRequest, *, attempt: lorry.AttemptTiming) -> WireResponse:
        self.num_open += 1
        await self.let_go.wait()
        raise lorry.ConnectionLost("enough")

    async def aclose(self) -> None: ...


async def test_nothing_of_the_client_s_own_limits_calls() -> None:
    transport = Counting()
    client = lorry.AsyncClient("http://x", transport=transport)
    calls = asyncio.gather(*(client.generate("Hi") for _ in range(10_000)), return_exceptions=True)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    num_open = transport.num_open
    transport.let_go.set()
    outcomes = {type(outcome) for outcome in await calls}

    assert num_open == 10_000
    assert outcomes == {lorry.ConnectionLost}
    assert client.stats().num_failed == {"ConnectionLost": 10_000}


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_no_more_calls_are_open_than_the_limit_says(is_streamed: bool) -> None:
    script = Holding()
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url, limit=3) as client:

        async def call() -> lorry.Generation:
            if is_streamed:
                return await client.stream("Hi").final()
            return await client.generate("Hi")

        calls = asyncio.gather(*(call() for _ in range(10)))
        await script.has_open(3)
        await asyncio.sleep(0.02)  # more would come by now
        stats = client.stats()
        let_go_ns = time.perf_counter_ns()
        script.let_go.set()
        generations = await calls

    assert script.most_open == 3
    assert (stats.num_in_flight, stats.num_queued) == (10, 7)
    assert stats.num_connections_open == 3
    turns_ns = [generation.timing.admitted_ns or 0 for generation in generations]
    assert sum(turn_ns < let_go_ns for turn_ns in turns_ns) == 3


async def test_a_call_that_waits_for_its_turn_counts_against_its_deadline() -> None:
    script = Holding()
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url, limit=1) as client:
        first = asyncio.create_task(client.generate("Hi"))
        await script.has_open(1)
        with pytest.raises(lorry.DeadlineExceeded) as caught:
            await client.generate("Hi", deadline=0.03)
        script.let_go.set()
        await first

    assert caught.value.phase == "queue"
    assert caught.value.attempts == 0
    assert caught.value.timing is not None
    assert caught.value.timing.admitted_ns is None
    assert len(server.requests) == 1


async def test_waiting_for_a_turn_is_in_the_time_from_the_intention_and_not_in_ttft() -> None:
    script = Holding()
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url, limit=1) as client:
        first = asyncio.create_task(client.generate("Hi"))
        await script.has_open(1)
        second = asyncio.create_task(client.stream("Hi").final())
        while not client.stats().num_queued:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)
        waits_ns = time.perf_counter_ns()
        await asyncio.sleep(0.05)
        let_go_ns = time.perf_counter_ns()
        script.let_go.set()
        await first
        timing = (await second).timing

    assert timing.queue is not None
    assert timing.ttft is not None
    assert timing.ttft_from_intended is not None
    assert timing.queue >= (let_go_ns - waits_ns) / 1e9
    assert timing.ttft_from_intended >= timing.queue + timing.ttft
    assert timing.admitted_ns is not None
    assert timing.admitted_ns <= timing.attempts[0].sent_ns


async def test_a_call_that_waits_to_be_sent_again_lends_its_place_to_others() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if request.json["prompt"] == "refused" and "x-request-attempt" not in request.headers:
            await reply.json(429, {"error": "full"}, retry_after="0.2")
        else:
            await reply.json(200, DONE)

    order: list[str] = []
    retry = lorry.RetryPolicy(base_s=0.0)
    async with (
        FakeLLMServer(script) as server,
        lorry.AsyncClient(server.url, limit=1, retry=retry) as client,
    ):

        async def call(prompt: str) -> int:
            generation = await client.generate(prompt)
            order.append(prompt)
            return generation.attempts

        attempts = await asyncio.gather(*(call(prompt) for prompt in ("refused", "a", "b")))

    assert order == ["a", "b", "refused"]
    assert attempts == [2, 1, 1]
    assert client.stats().num_retries == 1


async def test_an_adaptive_limit_hears_of_answers_that_were_sent_again() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if "x-request-attempt" in request.headers:
            await reply.json(200, DONE)
        else:
            await reply.json(429, {"error": "full"}, retry_after_ms="1")

    limit = lorry.AdaptiveLimit(min=1, start=8, max=8)
    retry = lorry.RetryPolicy(base_s=0.0)
    async with FakeLLMServer(script) as server:
        client = lorry.AsyncClient(server.url, limit=limit, retry=retry)
        await client.generate("Hi")
        await client.aclose()

    assert limit.limit == 6
    assert limit.num_in_flight == 0


async def test_questions_about_the_server_do_not_wait_for_a_turn() -> None:
    script = Holding()

    async def script_with_health(request: ReceivedRequest, reply: Reply) -> None:
        if request.path == "/health":
            await reply.json(200, {})
        else:
            await script(request, reply)

    async with (
        FakeLLMServer(script_with_health) as server,
        lorry.AsyncClient(server.url, limit=1) as client,
    ):
        first = asyncio.create_task(client.generate("Hi"))
        await script.has_open(1)
        health = await client.health()
        script.let_go.set()
        await first

    assert health.is_ready


async def test_every_end_of_a_call_gives_its_place_back() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        match request.json["prompt"]:
            case "bad":
                await reply.json(400, {"error": "no"})
            case "cut":
                await reply.start_stream()
                reply.cut()
            case "nonsense":
                await reply.json(200, ["no answer"])
            case "late":
                await reply.client_left()
            case _:
                await reply.start_stream()
                await reply.events(completion("a"))
                await reply.client_left()

    limit = lorry.Limit(1)
    async with FakeLLMServer(script) as server:
        client = lorry.AsyncClient(server.url, limit=limit)
        for prompt in ("bad", "nonsense"):
            with pytest.raises(lorry.ClientError):
                await client.generate(prompt)
        with pytest.raises(lorry.DeadlineExceeded):
            await client.generate("late", deadline=0.02)
        with pytest.raises(lorry.StreamTruncated):
            await client.stream("cut").final()
        async with client.stream("left early") as stream:
            await anext(stream)
        stream = client.stream("cancelled while nobody reads")
        await anext(stream)
        stream.cancel()
        places_after_cancel = limit.num_in_flight
        with pytest.raises(lorry.StreamCancelled):
            await anext(stream)
        forgotten = client.stream("forgotten")
        await anext(forgotten)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            del forgotten
            gc.collect()
        async with asyncio.timeout(10):
            while client.stats().num_in_flight:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.001)
        stats = client.stats()
        await client.aclose()

    assert places_after_cancel == 0
    assert (limit.num_in_flight, limit.num_queued) == (0, 0)
    assert stats.num_in_flight == 0
    assert stats.num_failed == {
        "BadRequest": 1,
        "StreamProtocolError": 1,
        "DeadlineExceeded": 1,
        "StreamTruncated": 1,
    }
    assert (stats.num_cancelled, stats.num_finished) == (3, 0)


async def test_one_timer_serves_all_reads_of_a_stream() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        for i in range(50):
            await reply.events(completion("a", token_ids=[i]))
            await asyncio.sleep(0)
        await reply.events(DONE, "[DONE]")
        await reply.end_stream()

    num_timers = 0
    loop = asyncio.get_running_loop()
    call_at = loop.call_at

    def counting(when: float, callback: Any, *rest: Any, **named: Any) -> asyncio.TimerHandle:
        nonlocal num_timers
        if not isinstance(getattr(callback, "__self__", None), LoopLag):  # it beats by the clock
            num_timers += 1
        return call_at(when, callback, *rest, **named)

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        await client.warmup(1)
        limits = lorry.Timeout(total=30, first_token=10, idle=5)
        loop.call_at = counting  # type: ignore[method-assign]
        try:
            generation = await client.stream("Hi", timeout=limits).final()
        finally:
            del loop.call_at

    assert generation.tokens is not None
    assert len(generation.tokens) == 51
    # the deadline's, that of the end, and what the server's turns take
    assert num_timers < 15


async def test_a_deadline_that_passes_while_nobody_reads_closes_the_connection() -> None:
    left = asyncio.Event()

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(completion("a"))
        await reply.client_left()
        left.set()

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        stream = client.stream("Hi", deadline=0.05)
        first = await anext(stream)
        await left.wait()
        with pytest.raises(lorry.DeadlineExceeded) as caught:
            await anext(stream)

    assert first.text == "a"
    assert caught.value.phase == "total"
    assert caught.value.partial is not None
    assert caught.value.partial.text == "a"
