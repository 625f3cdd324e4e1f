"""What aiohttp would do by default and must not: limits, timeouts, line lengths, cookies, decoding."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler

import lorry
from lorry.transports.aiohttp import AiohttpTransport
from lorry.transports.aiohttp_pool import KEEPALIVE_S, READ_BUFFER_BYTES
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply, completion

DONE = completion("x", finish_reason="stop")
UVICORN_KEEPALIVE_S = 5.0


async def test_more_calls_are_in_flight_than_aiohttp_allows_by_itself() -> None:
    all_came = asyncio.Event()
    num_open = 0

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        nonlocal num_open
        num_open += 1
        if num_open == 150:
            all_came.set()
        await all_came.wait()
        await reply.json(200, DONE)

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        answers = await asyncio.gather(*(client.generate(str(i)) for i in range(150)))

    assert len(answers) == 150
    assert server.num_connections == 150


async def test_the_pool_has_the_settings_that_streams_need(monkeypatch: pytest.MonkeyPatch) -> None:
    reading: list[dict[str, Any]] = []
    set_response_params = ResponseHandler.set_response_params

    def noting(protocol: ResponseHandler, **given: Any) -> None:
        reading.append(given)
        set_response_params(protocol, **given)

    monkeypatch.setattr(ResponseHandler, "set_response_params", noting)

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(200, DONE)

    transport = AiohttpTransport()
    async with (
        FakeLLMServer(script) as server,
        lorry.AsyncClient(server.url, transport=transport) as client,
    ):
        await client.generate("Hi")
        connector = transport._pools[asyncio.get_running_loop()]._connector

        assert (connector.limit, connector.limit_per_host) == (0, 0)
        assert connector._keepalive_timeout == KEEPALIVE_S < UVICORN_KEEPALIVE_S
        (given,) = reading
        assert given["read_bufsize"] == READ_BUFFER_BYTES >= 2**20
        assert given["auto_decompress"] is False
    assert connector.closed


async def test_cookies_are_not_kept() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(200, DONE, set_cookie="session=1")

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        await client.generate("a")
        await client.generate("b")

    assert "cookie" not in server.requests[1].headers


async def test_event_longer_than_any_buffer_is_read() -> None:
    text = "long " * (READ_BUFFER_BYTES // 2)

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.stream(completion(text, finish_reason="stop"))

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        assert await client.stream("Hi").text() == text


async def test_body_that_is_encoded_unasked_is_refused_rather_than_decoded() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        body = gzip.compress(json.dumps(DONE).encode())
        await reply.plain(200, body, content_encoding="gzip", content_type="application/json")

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.StreamProtocolError, match="gzip encoded"):
            await client.generate("Hi")

    assert server.requests[0].headers["accept-encoding"] == "identity"


async def test_proxies_of_the_environment_are_used_only_by_a_session_that_trusts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxied: list[str] = []

    async def proxy(request: ReceivedRequest, reply: Reply) -> None:
        proxied.append(request.path)
        await reply.json(200, DONE)

    async def direct(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(200, DONE)

    async with FakeLLMServer(proxy) as between, FakeLLMServer(direct) as server:
        monkeypatch.setenv("http_proxy", between.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with lorry.AsyncClient(server.url) as client:
            await client.generate("Hi")
        assert proxied == []
        async with aiohttp.ClientSession(trust_env=True) as session:
            await lorry.AsyncClient(server.url, transport=session).generate("Hi")

    assert proxied == [f"{server.url}/v1/completions"]
    assert len(server.requests) == 1
