"""A client of several servers, over loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest

import lorry
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply, completion

SOON = lorry.RetryPolicy(max_attempts=3, base_s=0.0)


async def answer(request: ReceivedRequest, reply: Reply) -> None:
    if request.method == "POST" and request.json.get("stream"):
        await reply.stream(completion("ok", finish_reason="stop"))
    else:
        await reply.json(200, completion("ok", finish_reason="stop"))


@pytest.fixture
async def servers() -> AsyncIterator[list[FakeLLMServer]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(FakeLLMServer(answer)) for _ in range(3)]


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address that refuses connections."""
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{placeholder.getsockname()[1]}"


async def test_an_adapter_is_asked_of_one_server_and_the_answer_says_which(
    servers: list[FakeLLMServer],
) -> None:
    async with lorry.AsyncClient([server.url for server in servers]) as client:
        generations = [await client.generate("Hi", adapter="pirate") for _ in range(6)]
        streamed = await client.stream("Hi", adapter="pirate").final()

    endpoint = generations[0].endpoint
    assert {generation.endpoint for generation in [*generations, streamed]} == {endpoint}
    assert [len(server.requests) for server in servers if server.url == endpoint] == [7]
    assert sum(len(server.requests) for server in servers) == 7


async def test_many_adapters_and_the_base_model_use_every_server(
    servers: list[FakeLLMServer],
) -> None:
    async with lorry.AsyncClient([server.url for server in servers]) as client:
        await asyncio.gather(*(client.generate("Hi", adapter=f"a{i}") for i in range(30)))
        with_adapters = [len(server.requests) for server in servers]
        await asyncio.gather(*(client.generate("Hi") for _ in range(30)))
        in_all = [len(server.requests) for server in servers]

    assert all(with_adapters)
    assert all(now > before for now, before in zip(in_all, with_adapters, strict=True))


async def test_a_refused_connection_is_made_good_by_another_server(
    servers: list[FakeLLMServer], nobody: str
) -> None:
    async with lorry.AsyncClient([nobody, servers[0].url], retry=SOON) as client:
        generations = [await client.generate("Hi", adapter=f"a{i}") for i in range(20)]

    assert {generation.endpoint for generation in generations} == {servers[0].url}
    attempts = [generation.attempts for generation in generations]
    assert attempts.count(2) == 5  # then the server that is not there is left out
    assert set(attempts) == {1, 2}


async def test_another_server_need_not_be_waited_for() -> None:
    async def full(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(503, {"error": "full"}, retry_after="60")

    async with (
        FakeLLMServer(full) as busy,
        FakeLLMServer(answer) as idle,
        lorry.AsyncClient([busy.url, idle.url], retry=SOON) as client,
    ):
        generations = [await client.generate("Hi", deadline=5) for _ in range(10)]

    assert {generation.endpoint for generation in generations} == {idle.url}
    assert 2 in {generation.attempts for generation in generations}


class FullFirst:
    """One script for two servers: answers 503 with the given headers in turn, then all is well."""

    def __init__(self, *refusals: dict[str, str]) -> None:
        self._refusals = list(refusals)

    async def __call__(self, request: ReceivedRequest, reply: Reply) -> None:
        if self._refusals:
            await reply.json(503, {"error": "full"}, **self._refusals.pop(0))
        else:
            await answer(request, reply)


async def test_a_server_that_was_tried_before_is_not_waited_for_as_the_last_one_wants() -> None:
    script = FullFirst({}, {"retry_after": "60"})
    async with (
        FakeLLMServer(script) as one,
        FakeLLMServer(script) as other,
        lorry.AsyncClient([one.url, other.url], retry=SOON) as client,
    ):
        generation = await client.generate("Hi", adapter="pirate", deadline=5)

    assert generation.attempts == 3
    # the adapter's favourite, the other one, and the favourite again
    assert sorted([len(one.requests), len(other.requests)]) == [1, 2]


async def test_a_server_that_is_come_back_to_is_waited_for_as_it_said_itself() -> None:
    script = FullFirst({"retry_after": "60"}, {})
    async with (
        FakeLLMServer(script) as one,
        FakeLLMServer(script) as other,
        lorry.AsyncClient([one.url, other.url], retry=SOON) as client,
    ):
        with pytest.raises(lorry.Overloaded) as caught:
            await client.generate("Hi", adapter="pirate", deadline=5)

    assert (caught.value.attempts, caught.value.not_retried) == (2, "deadline")


async def test_an_adapter_that_is_being_loaded_is_waited_for_where_it_is() -> None:
    waiting = {"pirate"}

    async def loading(request: ReceivedRequest, reply: Reply) -> None:
        if waiting:
            waiting.clear()
            detail = {"message": "soon", "type": "t", "code": "adapter_loading"}
            await reply.json(503, {"error": detail}, retry_after_ms="1")
        else:
            await answer(request, reply)

    async with (
        FakeLLMServer(loading) as one,
        FakeLLMServer(loading) as other,
        lorry.AsyncClient([one.url, other.url], retry=SOON) as client,
    ):
        generation = await client.generate("Hi", adapter="pirate")

    assert generation.attempts == 2
    assert sorted([len(one.requests), len(other.requests)]) == [0, 2]


async def test_an_error_says_which_server_it_is_of_and_each_cause_does() -> None:
    async def full(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(503, {"error": "full"})

    async with (
        FakeLLMServer(full) as one,
        FakeLLMServer(full) as other,
        lorry.AsyncClient([one.url, other.url], retry=lorry.RetryPolicy(2, 0.0)) as client,
    ):
        with pytest.raises(lorry.Overloaded) as caught:
            await client.generate("Hi", request_id="id-1")

    error = caught.value
    assert {error.endpoint, error.causes[0].endpoint} == {one.url, other.url}
    assert (error.attempts, error.causes[0].attempts) == (2, 1)
    assert error.causes[0].request_id == "id-1"
    assert error.not_retried == "attempts"


async def test_what_belongs_to_one_server_is_refused_by_a_client_of_several(
    servers: list[FakeLLMServer],
) -> None:
    async with lorry.AsyncClient([server.url for server in servers]) as client:
        for call in (
            client.adapters.load("pirate", "/adapters/pirate"),
            client.adapters.list(),
            client.adapters.unload("pirate"),
            client.models.list(),
            client.health(),
        ):
            with pytest.raises(lorry.ConfigError, match=r"say which by client\.at"):
                await call

    assert [server.requests for server in servers] == [[], [], []]


async def test_a_view_speaks_to_the_server_that_it_was_made_for(
    servers: list[FakeLLMServer],
) -> None:
    async with lorry.AsyncClient([server.url for server in servers]) as client:
        view = client.at(servers[1].url + "/v1/")
        for _ in range(5):
            await view.generate("Hi")
        health = await view.health()

    assert view.endpoints == (servers[1].url,)
    assert health.is_ready
    assert [len(server.requests) for server in servers] == [0, 6, 0]


async def test_a_view_of_a_server_that_the_client_does_not_have_is_refused() -> None:
    async with lorry.AsyncClient(["http://a", "http://b"]) as client:
        with pytest.raises(lorry.ConfigError, match="none of this client's servers"):
            client.at("http://c")


async def test_ready_waits_for_every_server(servers: list[FakeLLMServer], nobody: str) -> None:
    async with lorry.AsyncClient([servers[0].url, nobody]) as client:
        with pytest.raises(lorry.DeadlineExceeded, match=nobody):
            await client.ready(timeout=0.2)
    async with lorry.AsyncClient([server.url for server in servers]) as client:
        await client.ready(timeout=5)

    assert [len(server.requests) for server in servers] == [2, 1, 1]


async def test_no_call_is_in_flight_after_its_end_however_it_ended() -> None:
    async def stall(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(completion("a", token_ids=[1]))
        await reply.client_left()

    async with (
        FakeLLMServer(stall) as one,
        FakeLLMServer(stall) as other,
        lorry.AsyncClient([one.url, other.url]) as client,
    ):
        async with client.stream("Hi") as left_early:
            await anext(left_early)
        cancelled = client.stream("Hi")
        await anext(cancelled)
        cancelled.cancel()
        task = asyncio.create_task(client.stream("Hi").final())
        async with asyncio.timeout(10):
            while len(one.requests) + len(other.requests) < 3:  # noqa: ASYNC110 - of either
                await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        with pytest.raises(lorry.DeadlineExceeded):
            await client.stream("Hi", deadline=0.05).final()
        stats = client.stats().endpoints

    assert sum(record.num_attempts for record in stats) == 4
    assert [record.num_in_flight for record in stats] == [0, 0]


async def test_a_server_whose_streams_are_cut_is_left_out() -> None:
    async def cut(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(completion("a", token_ids=[1]))
        reply.cut()

    async with (
        FakeLLMServer(cut) as broken,
        FakeLLMServer(answer) as sound,
        lorry.AsyncClient([broken.url, sound.url]) as client,
    ):
        results = await asyncio.gather(
            *(client.stream("Hi").final() for _ in range(20)), return_exceptions=True
        )
        before = len(broken.requests)
        for _ in range(10):
            await client.stream("Hi").final()

    assert {type(result) for result in results} == {lorry.StreamTruncated, lorry.Generation}
    assert len(broken.requests) == before


async def test_the_statistics_have_a_record_for_each_server(
    servers: list[FakeLLMServer], nobody: str
) -> None:
    async with lorry.AsyncClient([servers[0].url, nobody], retry=SOON) as client:
        for number in range(20):
            await client.generate("Hi", adapter=f"a{number}")
        there, not_there = client.stats().endpoints

    assert (there.url, not_there.url) == (servers[0].url, nobody)
    assert there.num_attempts == 20
    assert there.num_retries == not_there.num_attempts == not_there.num_failures == 5
    assert (there.is_ejected, not_there.is_ejected) == (False, True)
    assert there.answer_takes_s is not None
    assert not_there.answer_takes_s is None
