"""Streams: their tokens, their ends good and bad, and what is left of them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

import lorry
from lorry.exchange import END_GRACE_S
from tests.support.fake_llm_server import (
    FakeLLMServer,
    ReceivedRequest,
    Reply,
    completion,
    event,
    usage_chunk,
)

A = completion("Once", token_ids=[11])
B = completion(" upon", token_ids=[12])
END = completion(" a", token_ids=[13], finish_reason="length")
TIMINGS = {
    "request_id": "r",
    "adapter": None,
    "queue_ms": 1.0,
    "prefill_ms": 2.0,
    "decode_ms": 3.0,
    "cached_tokens": 0,
    "steps": 3,
    "max_batch": 1,
    "preemptions": 0,
}


async def tell_story(request: ReceivedRequest, reply: Reply) -> None:
    await reply.stream(A, B, END, usage_chunk(4, 3, timings=TIMINGS))


async def test_stream_yields_tokens_and_ends_with_the_whole() -> None:
    async with (
        FakeLLMServer(tell_story) as server,
        lorry.AsyncClient(server.url) as client,
        client.stream("Hi", max_tokens=3) as stream,
    ):
        tokens = [token async for token in stream]
        generation = await stream.final()

    assert [(token.text, token.id, token.index) for token in tokens] == [
        ("Once", 11, 0),
        (" upon", 12, 1),
        (" a", 13, 2),
    ]
    assert generation.text == "Once upon a"
    assert generation.token_ids == (11, 12, 13)
    assert generation.usage == lorry.Usage(4, 3)
    assert generation.finish_reason == "length"
    assert generation.server is not None
    assert generation.server.prefill_ms == 2.0
    assert generation.tokens == tuple(tokens)


async def test_stream_asks_for_usage_and_sends_nothing_before_it_is_entered() -> None:
    async with FakeLLMServer(tell_story) as server, lorry.AsyncClient(server.url) as client:
        stream = client.stream("Hi")
        await asyncio.sleep(0)
        requests_before = len(server.requests)
        await stream.final()

    assert requests_before == 0
    assert server.requests[0].json["stream_options"] == {"include_usage": True}


async def test_text_and_text_stream_give_the_text_alone() -> None:
    async with FakeLLMServer(tell_story) as server, lorry.AsyncClient(server.url) as client:
        whole = await client.stream("Hi").text()
        pieces = [piece async for piece in client.stream("Hi").text_stream()]

    assert whole == "Once upon a"
    assert pieces == ["Once", " upon", " a"]


async def test_finished_stream_gives_its_connection_back() -> None:
    async with FakeLLMServer(tell_story) as server, lorry.AsyncClient(server.url) as client:
        await client.stream("Hi").final()
        await client.stream("Hi").final()

    assert server.num_connections == 1


async def test_nowait_takes_what_came_without_waiting() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(A, B)
        await reply.client_left()

    async with (
        FakeLLMServer(script) as server,
        lorry.AsyncClient(server.url) as client,
        client.stream("Hi") as stream,
    ):
        first = await anext(stream)
        rest = stream.nowait()
        nothing = stream.nowait()

    assert (first.text, [token.text for token in rest], nothing) == ("Once", [" upon"], [])


async def test_tokens_of_one_read_share_a_stamp_and_are_counted_as_buffered() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(A, completion("bc", token_ids=[1, 2], finish_reason="stop"), "[DONE]")
        await reply.end_stream()

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        generation = await client.stream("Hi").final()

    assert generation.tokens is not None
    assert len({token.t_ns for token in generation.tokens}) == 1
    assert [token.text for token in generation.tokens] == ["Once", "", "bc"]
    assert generation.timing.num_buffered_tokens == 2
    assert generation.timing.tokens_per_event == 1.5
    assert generation.timing.itl == [0.0, 0.0]


async def test_role_and_keepalive_are_not_the_first_token() -> None:
    token_may_come = asyncio.Event()

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.chunk(b": keep-alive\n\n" + event(completion("")))
        await token_may_come.wait()
        await reply.events(END, "[DONE]")
        await reply.end_stream()

    async with (
        FakeLLMServer(script) as server,
        lorry.AsyncClient(server.url) as client,
        client.stream("Hi") as stream,
    ):
        while stream.timing.first_byte_ns is None:
            assert stream.nowait() == []
            await asyncio.sleep(0)
        no_token_yet = stream.timing.first_token_ns
        token_may_come.set()
        generation = await stream.final()

    assert no_token_yet is None
    assert generation.timing.ttft is not None
    assert generation.timing.ttfb is not None
    assert generation.timing.ttft > generation.timing.ttfb


@pytest.mark.parametrize("is_clean_end", [True, False])
async def test_stream_without_an_end_is_truncated_and_keeps_its_part(is_clean_end: bool) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(A, B)
        if is_clean_end:
            await reply.end_stream()
        else:
            reply.cut()

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        stream = client.stream("Hi", adapter="pirate")
        with pytest.raises(lorry.StreamTruncated) as caught:
            await stream.final()
        with pytest.raises(lorry.StreamTruncated):
            await anext(stream)

    assert caught.value.partial is not None
    assert caught.value.partial.text == "Once upon"
    assert caught.value.partial.finish_reason is None
    assert caught.value.adapter == "pirate"
    assert caught.value.request_id == stream.request_id


async def test_no_cut_of_a_stream_before_its_finish_reason_is_a_success() -> None:
    whole = event(A) + event(B) + event(END) + event("[DONE]")
    finish_ends_at = len(event(A) + event(B) + event(END))
    cuts = iter(range(0, len(whole), 7))
    expected, outcomes = [], []

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        cut_at = next(cuts)
        expected.append("whole" if cut_at >= finish_ends_at else "truncated")
        await reply.start_stream()
        if cut_at:
            await reply.chunk(whole[:cut_at])
        await reply.end_stream()

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        for _ in range(0, len(whole), 7):
            try:
                await client.stream("Hi").final()
                outcomes.append("whole")
            except lorry.StreamTruncated:
                outcomes.append("truncated")

    assert outcomes == expected
    assert set(outcomes) == {"whole", "truncated"}


@pytest.mark.parametrize("last", ["[DONE]", completion("", finish_reason="stop")])
async def test_done_or_a_finish_reason_alone_ends_a_stream_well(last: Any) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(A, last)
        reply.cut()

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        generation = await client.stream("Hi").final()

    assert generation.text == "Once"


class HeldOpen:
    """Says all there is to say but `[DONE]`, and keeps the connection open."""

    def __init__(self, *, says_it_lives: bool) -> None:
        self.client_left = asyncio.Event()
        self._says_it_lives = says_it_lives

    async def __call__(self, request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(A, END)
        leaving = asyncio.ensure_future(reply.client_left())
        with contextlib.suppress(ConnectionError):
            while self._says_it_lives and not leaving.done():
                await reply.chunk(b": keep-alive\n\n")
                await asyncio.sleep(END_GRACE_S / 10)
        await leaving
        self.client_left.set()


@pytest.mark.parametrize("says_it_lives", [False, True], ids=["silent", "keep-alive comments"])
async def test_a_finish_reason_ends_a_stream_that_is_held_open(says_it_lives: bool) -> None:
    script = HeldOpen(says_it_lives=says_it_lives)
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        generation = await client.stream("Hi", deadline=30).final()
        await script.client_left.wait()
        stats = client.stats()

    assert (generation.text, generation.finish_reason) == ("Once a", "length")
    assert (stats.num_finished, stats.num_failed) == (1, {})
    timing = generation.timing
    assert timing.done_ns is not None
    assert timing.first_token_ns is not None
    if not says_it_lives:  # the wait for more is no part of the answer
        assert timing.done_ns == timing.last_token_ns


@pytest.mark.parametrize("is_awaited", [True, False], ids=["awaited", "without waiting"])
async def test_a_deadline_that_passes_after_the_finish_reason_takes_nothing_away(
    is_awaited: bool,
) -> None:
    script = HeldOpen(says_it_lives=False)
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        stream = client.stream("Hi", deadline=0.3)
        while not stream.partial.finish_reason:
            await anext(stream)
        await script.client_left.wait()  # the deadline closes what nobody reads
        texts = [token.text for token in stream.nowait()] if not is_awaited else []
        generation = await stream.final()
        stats = client.stats()

    assert (generation.text, generation.finish_reason) == ("Once a", "length")
    assert texts in ([], [" a"])  # if it came with the one before
    assert (stats.num_finished, stats.num_failed, stats.num_in_flight) == (1, {}, 0)


async def test_a_limit_on_silence_does_not_hold_after_the_finish_reason() -> None:
    script = HeldOpen(says_it_lives=False)
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        limits = lorry.Timeout(idle=END_GRACE_S / 5)
        generation = await client.stream("Hi", timeout=limits).final()

    assert generation.finish_reason == "length"


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        (
            {"error": {"message": "gpu lost", "type": "server_error", "code": 500}},
            "gpu lost",
            "500",
        ),
        ({"error": "gpu lost"}, "gpu lost", None),
        ({"error": "gpu lost", "error_type": "generation"}, "gpu lost", "generation"),
    ],
)
async def test_error_event_is_raised_after_the_tokens_before_it(
    body: dict[str, Any], message: str, code: str | None
) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(A, body, "[DONE]")
        await reply.end_stream()

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        stream = client.stream("Hi")
        first = await anext(stream)
        with pytest.raises(lorry.ServerStreamError, match=message) as caught:
            await anext(stream)

    assert first.text == "Once"
    assert caught.value.code == code
    assert caught.value.partial is not None
    assert caught.value.partial.text == "Once"


async def test_event_that_is_no_answer_is_a_protocol_error() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.stream(A, {"surprise": 1})

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.StreamProtocolError, match="not an answer") as caught:
            await client.stream("Hi").final()

    assert caught.value.snippet == b'{"surprise": 1}'


async def test_answer_of_another_content_type_is_refused() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(200, completion("x"))

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.StreamProtocolError, match="application/json"):
            await client.stream("Hi").final()


async def test_status_error_of_a_stream_is_raised_on_entering() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(400, {"error": {"message": "no", "type": "t", "param": "top_p"}})

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.BadRequest, match="no") as caught:
            async with client.stream("Hi"):
                pass

    assert caught.value.param == "top_p"


async def test_timings_of_another_server_do_not_break_a_stream() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.stream(A, {**END, "timings": {"prompt_n": 3}})

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        generation = await client.stream("Hi").final()

    assert generation.extra == {"timings": {"prompt_n": 3}}


async def test_server_without_token_ids_gives_one_token_per_event() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.stream(completion("a"), completion("bc"), completion("", finish_reason="stop"))

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        generation = await client.stream("Hi").final()

    assert generation.tokens is not None
    assert [(token.text, token.id) for token in generation.tokens] == [("a", None), ("bc", None)]
    assert generation.token_ids is None
    assert generation.usage == lorry.Usage(None, 2, source="counted")


async def test_two_tasks_cannot_read_one_stream() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.client_left()

    async with (
        FakeLLMServer(script) as server,
        lorry.AsyncClient(server.url) as client,
        client.stream("Hi") as stream,
    ):
        reader = asyncio.ensure_future(stream.text())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="two tasks"):
            await anext(stream)
        stream.cancel()
        with pytest.raises(lorry.StreamCancelled):
            await reader


async def test_forgotten_stream_warns_and_closes_its_connection() -> None:
    left = asyncio.Event()

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(A)
        await reply.client_left()
        left.set()

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        forgotten = [client.stream("Hi")]
        await anext(forgotten[0])
        with pytest.warns(ResourceWarning, match="not closed"):
            forgotten.clear()
        await left.wait()

    assert left.is_set()
