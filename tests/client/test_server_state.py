"""Models, health, readiness, tokenizing."""

from __future__ import annotations

import asyncio
import socket

import pytest

import lorry
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply


async def test_models_are_cards_also_with_fields_of_other_servers() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        cards = [
            {"id": "base", "created": 1, "object": "model", "owned_by": "vllm", "permission": []},
            {"id": "pirate", "created": 1, "parent": "base", "root": "/a"},
        ]
        await reply.json(200, {"object": "list", "data": cards})

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        cards = await client.models.list()

    assert [(card.id, card.parent) for card in cards] == [("base", None), ("pirate", "base")]
    assert (server.requests[0].method, server.requests[0].path) == ("GET", "/v1/models")


async def test_answer_that_is_no_model_list_is_a_protocol_error() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(200, {"models": []})

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.StreamProtocolError, match="/v1/models"):
            await client.models.list()


async def test_tokenize_gives_ids() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        spans = [
            {"id": 5, "text": "H", "start": 0, "stop": 1},
            {"id": 6, "text": "i", "start": 1, "stop": 2},
        ]
        await reply.json(200, spans)

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        token_ids = await client.tokenize("Hi")

    assert token_ids == [5, 6]
    assert server.requests[0].json == {"inputs": "Hi", "add_special_tokens": True}


async def test_health_tells_ready_from_not_ready_without_retrying() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if len(server.requests) == 1:
            await reply.json(503, {"error": "unhealthy", "error_type": "healthcheck"})
        else:
            await reply.plain(200, b"")

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        before = await client.health()
        after = await client.health()

    assert (before.is_ready, before.status) == (False, 503)
    assert "unhealthy" in before.detail
    assert after == lorry.Health(True, 200)


async def test_ready_waits_for_a_server_that_still_starts() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.plain(503 if len(server.requests) == 1 else 200, b"loading")

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        await client.ready(timeout=30)

    assert len(server.requests) == 2


async def test_ready_says_what_stood_in_the_way() -> None:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        client = lorry.AsyncClient(f"http://127.0.0.1:{placeholder.getsockname()[1]}")
        with pytest.raises(lorry.DeadlineExceeded, match="refuses connections"):
            await client.ready(timeout=0.1)
        await client.aclose()


async def test_ready_can_be_cancelled() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        asked.set()
        await reply.client_left()

    asked = asyncio.Event()
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        waiting = asyncio.ensure_future(client.ready())
        await asked.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    assert len(server.requests) == 1


async def test_ready_outlasts_a_question_that_is_not_answered_in_time() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if len(server.requests) == 1:
            await reply.client_left()
        else:
            await reply.plain(200, b"")

    async with (
        FakeLLMServer(script) as server,
        lorry.AsyncClient(server.url, timeout=0.2) as client,
    ):
        await client.ready(timeout=30)

    assert len(server.requests) == 2
