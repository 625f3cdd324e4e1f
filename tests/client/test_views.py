"""One client under several settings, what it counts, and requests of any kind."""

from __future__ import annotations

import asyncio
import itertools
import pickle
from collections.abc import Mapping
from typing import Self

import pytest

import lorry
from tests.support.fake_llm_server import (
    FakeLLMServer,
    ReceivedRequest,
    Reply,
    chat_answer,
    completion,
)

DONE = completion("ok", finish_reason="stop")


async def answer(request: ReceivedRequest, reply: Reply) -> None:
    if request.path == "/health":
        await reply.json(503, {"error": "draining"})
    elif request.path == "/v1/chat/completions":
        await reply.json(200, chat_answer("ok"))
    elif request.json.get("stream"):
        await reply.stream(DONE)
    else:
        await reply.json(200, DONE)


async def test_a_view_has_other_defaults_and_the_same_connections() -> None:
    async with FakeLLMServer(answer) as server:
        client = lorry.AsyncClient(server.url, defaults={"max_tokens": 5}, headers={"X-Team": "a"})
        view = client.with_options(adapter="pirate", temperature=0.5, headers={"X-Run": "7"})
        await client.generate("Hi")
        await view.generate("Hi")
        await view.generate("Hi", max_new_tokens=9, adapter_id="")
        await view.chat([{"role": "user", "content": "Hi"}])
        await client.aclose()

    bodies = [request.json for request in server.requests]
    assert server.num_connections == 1
    assert [body["max_tokens"] for body in bodies] == [5, 5, 9, 5]
    assert [body["model"] for body in bodies] == ["", "pirate", "", "pirate"]
    assert [body.get("temperature") for body in bodies] == [None, 0.5, 0.5, 0.5]
    assert [request.headers.get("x-run") for request in server.requests] == [None, "7", "7", "7"]
    assert {request.headers["x-team"] for request in server.requests} == {"a"}
    assert client.stats() == view.stats()
    assert client.stats().num_finished == 4


async def test_a_view_has_its_own_limits_of_time_and_number_and_its_own_retries() -> None:
    limit = lorry.Limit(3)
    client = lorry.AsyncClient("http://x", limit=limit, timeout=60)
    view = client.with_options(timeout=5, limit=1, retry=lorry.RetryPolicy(max_attempts=1))
    unlimited = view.with_options(limit=None)

    assert view._session.config.timeout.total == 5
    assert repr(view._session.limiter) == "Limit(1)"
    assert unlimited._session.limiter is None
    assert unlimited._session.retry.max_attempts == 1
    assert client._session.limiter is limit
    assert client._session.config.timeout.total == 60


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"max_token": 3}, "did you mean 'max_tokens'"),
        ({"request_id": "r"}, "belongs to one request"),
        ({"adapter": "a", "adapter_id": "b"}, "two names"),
    ],
)
def test_wrong_defaults_are_refused_when_they_are_given(wrong: dict[str, str], named: str) -> None:
    with pytest.raises(TypeError, match=named):
        lorry.AsyncClient("http://x", defaults=wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=named):
        lorry.AsyncClient("http://x").with_options(**wrong)  # type: ignore[arg-type]


def test_a_wrong_timeout_of_a_view_is_refused_by_name() -> None:
    with pytest.raises(lorry.ConfigError, match="timeout"):
        lorry.AsyncClient("http://x").with_options(timeout=-1)


async def test_a_key_is_made_for_every_attempt_and_blotted_out_of_errors() -> None:
    numbers = itertools.count()

    async def next_key() -> str:
        await asyncio.sleep(0)
        return f"key-{next(numbers)}"

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if len(server.requests) == 1:
            await reply.json(503, {"error": "full"}, retry_after_ms="0")
        elif len(server.requests) == 2:
            await reply.json(200, DONE)
        else:
            sent = request.headers["authorization"]
            await reply.json(401, {"error": {"message": f"no such key: {sent}"}})

    retry = lorry.RetryPolicy(base_s=0.0)
    async with FakeLLMServer(script) as server:
        client = lorry.AsyncClient(server.url, api_key=next_key, retry=retry)
        await client.generate("Hi")
        with pytest.raises(lorry.Unauthorized) as caught:
            await client.generate("Hi")
        await client.aclose()

    sent = [request.headers["authorization"] for request in server.requests]
    assert sent == ["Bearer key-0", "Bearer key-1", "Bearer key-2"]
    assert "key-2" not in repr(caught.value) + str(caught.value.body)
    assert "***" in str(caught.value)


async def test_a_function_for_keys_that_fails_fails_the_call_and_gives_its_place_back() -> None:
    async def broken() -> str:
        raise OSError("no vault")

    async def late() -> str:
        await asyncio.sleep(30)
        return "key"

    async def wrong() -> str:
        return "two\nlines"

    limit = lorry.Limit(1)
    clients = [lorry.AsyncClient("http://x", api_key=key, limit=limit) for key in (broken, wrong)]
    for client in clients:
        with pytest.raises(lorry.ConfigError, match="function api_key"):
            await client.generate("Hi")
    with pytest.raises(lorry.DeadlineExceeded) as caught:
        await lorry.AsyncClient("http://x", api_key=late).generate("Hi", deadline=0.02)

    assert caught.value.phase == "queue"
    assert limit.num_in_flight == 0


async def test_warming_up_opens_connections_that_calls_then_use() -> None:
    async with FakeLLMServer(answer) as server, lorry.AsyncClient(server.url) as client:
        await client.warmup(connections=20)
        opened = server.num_connections
        stats = client.stats()
        generations = await asyncio.gather(*(client.generate("Hi") for _ in range(20)))

    assert opened == 20
    assert (stats.num_connections_open, stats.num_connections_idle) == (20, 20)
    assert server.num_connections == 20
    assert all(generation.timing.reused_connection for generation in generations)


async def test_warming_up_against_no_server_says_so() -> None:
    client = lorry.AsyncClient("http://127.0.0.1:1", retry=lorry.RetryPolicy(max_attempts=1))
    with pytest.raises(lorry.ConnectError):
        await client.warmup(connections=3)
    with pytest.raises(ValueError, match="connections is -1"):
        await client.warmup(connections=-1)

    assert client.stats().num_in_flight == 0


async def test_stats_are_what_happened_and_pickle() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(400 if request.json["prompt"] == "bad" else 200, DONE)

    async with FakeLLMServer(script) as server:
        client = lorry.AsyncClient(server.url)
        before = client.stats()
        await client.generate("Hi")
        with pytest.raises(lorry.BadRequest):
            await client.generate("bad")
        stats = client.stats()
        await client.aclose()

    assert before.num_started == 0
    assert (before.num_connections_open, before.num_connections_idle) == (None, None)
    assert (stats.num_started, stats.num_finished, stats.num_in_flight) == (2, 1, 0)
    assert stats.num_failed == {"BadRequest": 1}
    assert (stats.num_connections_open, stats.num_connections_idle) == (1, 1)
    assert client.stats().num_connections_open == 0
    assert pickle.loads(pickle.dumps(stats)) == stats


async def test_a_raw_request_returns_whatever_status_comes() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        assert request.body == b"\x00bytes"
        await reply.plain(418, b"\xff\x00", content_type="image/png", x_own="yes")

    async with FakeLLMServer(script) as server:
        client = lorry.AsyncClient(server.url, api_key="k")
        got = await client.raw("POST", "/tea?cups=2", body=b"\x00bytes", headers={"X-A": "b"})
        await client.aclose()

    assert (got.status, got.body, got.headers["x-own"]) == (418, b"\xff\x00", "yes")
    assert server.requests[0].path == "/tea?cups=2"
    assert server.requests[0].headers["x-a"] == "b"
    assert server.requests[0].headers["authorization"] == "Bearer k"
    assert server.requests[0].headers["x-request-id"] == got.request_id
    assert pickle.loads(pickle.dumps(got)) == got


async def test_a_raw_stream_is_read_piece_by_piece_and_closed_when_it_is_left() -> None:
    left = asyncio.Event()

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream("text/plain")
        await reply.chunk(b"one")
        if request.path == "/whole":
            await reply.chunk(b"two")
            await reply.end_stream()
            return
        await reply.client_left()
        left.set()

    async with FakeLLMServer(script) as server:
        client = lorry.AsyncClient(server.url, limit=1)
        async with client.raw.stream("GET", "/whole") as answer:
            whole = b"".join([piece async for piece in answer])
            status = answer.status
        async with client.raw.stream("GET", "/endless") as answer:
            first = await anext(answer)
        await left.wait()
        stats = client.stats()
        await client.aclose()

    assert (whole, status, first) == (b"onetwo", 200, b"one")
    assert (stats.num_finished, stats.num_cancelled, stats.num_in_flight) == (1, 1, 0)


async def test_a_raw_request_that_gets_no_answer_fails_as_every_call() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if request.path == "/cut":
            await reply.start_stream()
        reply.cut()

    async with FakeLLMServer(script) as server:
        client = lorry.AsyncClient(server.url)
        with pytest.raises(lorry.ConnectionLost):
            await client.raw("GET", "/x")
        with pytest.raises(lorry.ConnectionLost) as caught:
            async with client.raw.stream("GET", "/cut") as answer:
                _ = [piece async for piece in answer]
        with pytest.raises(lorry.ConfigError, match="slash"):
            await client.raw("GET", "x")
        with pytest.raises(RuntimeError, match="async with"):
            await anext(client.raw.stream("GET", "/x"))
        await client.aclose()

    assert caught.value.attempts == 1
    assert client.stats().num_failed == {"ConnectionLost": 2}


async def test_the_limit_on_the_first_token_does_not_hold_for_bytes() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream("text/plain")
        for piece in (b"one", b"two", b"three"):
            await reply.chunk(piece)
            await reply.pause(0.05)
        await reply.end_stream()

    limits = lorry.Timeout(first_token=0.06)
    async with FakeLLMServer(script) as server:
        client = lorry.AsyncClient(server.url, timeout=limits)
        async with client.raw.stream("GET", "/slow") as answer:
            whole = b"".join([piece async for piece in answer])
        await client.aclose()

    assert whole == b"onetwothree"


class Lingering:
    """An answer whose connection takes for ever to close."""

    def __init__(self) -> None:
        self.status = 200
        self.at_end = False
        self.headers: Mapping[str, str] = {}
        self.is_closing = asyncio.Event()

    async def send(self, request: lorry.WireRequest, *, attempt: lorry.AttemptTiming) -> Self:
        return self

    def read_nowait(self) -> bytes:
        return b""

    async def read_some(self) -> bytes:
        return b"x"

    def abort(self) -> None: ...

    async def aclose(self) -> None:
        self.is_closing.set()
        await asyncio.Event().wait()


async def test_a_permit_comes_back_from_a_call_that_is_cancelled_while_it_closes() -> None:
    transport, limit = Lingering(), lorry.Limit(1)
    client = lorry.AsyncClient("http://x", transport=transport, limit=limit)

    async def leave_early() -> None:
        async with client.raw.stream("GET", "/x") as answer:
            await anext(answer)

    task = asyncio.create_task(leave_early())
    await transport.is_closing.wait()
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    assert (limit.num_in_flight, client.stats().num_in_flight) == (0, 0)


async def test_warming_up_opens_connections_to_every_server() -> None:
    async with FakeLLMServer(answer) as one, FakeLLMServer(answer) as other:
        client = lorry.AsyncClient([one.url, other.url])
        await client.warmup(connections=3)
        await client.aclose()

    assert (one.num_connections, other.num_connections) == (3, 3)
