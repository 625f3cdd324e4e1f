"""`TokenStream.events`: what happens in a stream beside its tokens."""

from __future__ import annotations

import pytest

import lorry
from tests.support.fake_llm_server import (
    FakeLLMServer,
    ReceivedRequest,
    Reply,
    completion,
    usage_chunk,
)


async def whole(request: ReceivedRequest, reply: Reply) -> None:
    await reply.start_stream()
    await reply.chunk(b": still there\n\n: and now\n\n")
    await reply.events(completion("a", token_ids=[1]))
    await reply.events(completion("", finish_reason="stop"), usage_chunk(5, 1), "[DONE]")
    await reply.end_stream()


async def cut(request: ReceivedRequest, reply: Reply) -> None:
    await reply.start_stream()
    await reply.events(completion("a", token_ids=[1]))
    reply.cut()


async def test_events_are_the_start_the_tokens_the_counts_and_the_end() -> None:
    async with FakeLLMServer(whole) as server, lorry.AsyncClient(server.url) as client:
        stream = client.stream("Hi", request_id="id-1")
        events = [event async for event in stream.events()]

    started, *told, usage, finished = events
    assert isinstance(started, lorry.Started)
    assert (started.request_id, started.endpoint) == ("id-1", server.url)
    assert started.t_ns == stream.timing.attempts[0].headers_ns
    assert sum(event.count for event in told if isinstance(event, lorry.KeepAlive)) == 2
    assert [event.text for event in told if isinstance(event, lorry.Token)] == ["a"]
    assert usage == lorry.Usage(prompt_tokens=5, completion_tokens=1)
    assert isinstance(finished, lorry.Finished)
    assert finished.generation == stream.partial
    assert finished.generation.finish_reason == "stop"


async def test_views_of_a_stream_share_one_position() -> None:
    async with (
        FakeLLMServer(whole) as server,
        lorry.AsyncClient(server.url) as client,
        client.stream("Hi") as stream,
    ):
        first = await anext(stream)
        rest = [type(event) async for event in stream.events()]

    assert first.text == "a"
    assert rest == [lorry.Started, lorry.KeepAlive, lorry.Usage, lorry.Finished]


async def test_a_stream_that_is_cut_does_not_finish() -> None:
    async with FakeLLMServer(cut) as server, lorry.AsyncClient(server.url) as client:
        events = client.stream("Hi").events()
        told = [type(await anext(events)), type(await anext(events))]
        with pytest.raises(lorry.StreamTruncated):
            await anext(events)

    assert told == [lorry.Started, lorry.Token]


async def test_a_stream_that_is_refused_does_not_start() -> None:
    async def refuse(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(400, {"error": "no"})

    async with FakeLLMServer(refuse) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.BadRequest):
            await anext(client.stream("Hi").events())
