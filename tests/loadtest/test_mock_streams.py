"""The mock server's answers are what the SDK and the routes' own types accept."""

from __future__ import annotations

import aiohttp
import msgspec
import pytest

import lorry
from lorry.types.lorax import StreamEvent
from lorry_loadtest.mock_server import MockServer
from lorry_loadtest.mock_stream import MockTimes
from tests.support.mock_llm_server import running_mock

FAST = MockTimes(first_ms=2, gap_ms=1)


@pytest.mark.parametrize("route", ["completions", "chat"])
async def test_the_sdk_reads_a_stream_to_its_end(route: str) -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        async with lorry.AsyncClient(mock.url) as client:
            if route == "chat":
                messages = [{"role": "user", "content": "a b c"}]
                stream = client.chat.stream(messages, adapter="alpha", max_tokens=5)
            else:
                stream = client.stream("a b c", adapter="alpha", max_tokens=5)
            async with stream:
                generation = await stream.final()

    assert generation.usage.completion_tokens == 5
    assert generation.finish_reason == "length"
    assert generation.server is not None
    assert generation.server.adapter == "alpha"


async def test_an_event_of_the_lorax_route_is_one_of_its_type() -> None:
    body = {"inputs": "a b c", "parameters": {"adapter_id": "beta", "max_new_tokens": 3}}
    with running_mock(MockServer(times=FAST)) as mock:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{mock.url}/generate_stream", json=body) as response,
        ):
            sent = (await response.read()).decode().strip().split("\n\n")

    events = [msgspec.json.decode(one.removeprefix("data:"), type=StreamEvent) for one in sent]
    assert len(events) == 3
    assert events[-1].details is not None
    assert events[-1].details.generated_tokens == 3
