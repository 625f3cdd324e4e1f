"""A client can count the tokens of every event, on every route, and the sum is the usage."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.support.fake_engine import FakeEngine
from tests.support.http_app import MODEL, events, fake_app, ids
from tests.support.live_server import live_server

TEXT = "one two three\u00e9\U0001f600"
USAGE = {"stream": True, "stream_options": {"include_usage": True}, "return_token_ids": True}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "p"}], **USAGE}
COMPLETION = {"model": MODEL, "prompt": "p", "max_tokens": 100, **USAGE}


async def stream(engine: FakeEngine, path: str, body: dict[str, Any]) -> list[Any]:
    async with live_server(fake_app(engine)) as url, httpx.AsyncClient() as client:
        response = await client.post(url + path, json=body)
    assert response.status_code == 200, response.text
    return events(response.text)


@pytest.mark.parametrize("tokens_per_output", [1, 3])
@pytest.mark.parametrize("extra", [{}, {"stop": "three"}, {"n": 2}, {"max_tokens": 5}])
@pytest.mark.parametrize(
    ("path", "body"), [("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)]
)
async def test_token_ids_of_the_events_add_up_to_the_usage(path, body, extra, tokens_per_output):
    engine = FakeEngine(ids(TEXT), tokens_per_output=tokens_per_output)

    received = await stream(engine, path, body | extra)

    choices = [choice for chunk in received[:-1] for choice in chunk["choices"]]
    counted = sum(len(choice.get("token_ids") or []) for choice in choices)
    usage = received[-2]["usage"]
    assert received[-1] == "[DONE]"
    assert counted == usage["completion_tokens"] > 0


@pytest.mark.parametrize("tokens_per_output", [1, 3])
@pytest.mark.parametrize("parameters", [{}, {"stop": ["three"]}, {"max_new_tokens": 5}])
@pytest.mark.parametrize("path", ["/generate_stream", "/", "/invocations"])
async def test_loraxs_streams_have_an_event_for_each_token(path, parameters, tokens_per_output):
    engine = FakeEngine(ids(TEXT), tokens_per_output=tokens_per_output)
    body = {"inputs": "p", "parameters": parameters} | (
        {} if path == "/generate_stream" else {"stream": True}
    )

    received = await stream(engine, path, body)

    assert [event["index"] for event in received] == list(range(1, len(received) + 1))
    assert received[-1]["details"]["generated_tokens"] == len(received)
    assert all(isinstance(event["token"]["id"], int) for event in received)
