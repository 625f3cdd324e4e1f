"""Calls of LoRAX's native routes over a scripted engine."""

from __future__ import annotations

from typing import Any

import httpx

from tests.support.fake_engine import FakeEngine
from tests.support.http_app import events, fake_app, in_process
from tests.support.live_server import live_server


async def post(
    engine: FakeEngine, path: str, body: dict[str, Any], **settings: Any
) -> httpx.Response:
    async with in_process(fake_app(engine, **settings)) as client:
        return await client.post(path, json=body)


async def generate(engine: FakeEngine, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    """The answer to `POST /generate`, whose status is 200."""
    response = await post(engine, "/generate", {"inputs": "abc", "parameters": parameters})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def stream(engine: FakeEngine, path: str, body: dict[str, Any]) -> list[Any]:
    """The events of an answer whose status is 200."""
    async with live_server(fake_app(engine)) as url, httpx.AsyncClient() as client:
        response = await client.post(url + path, json=body)
        assert response.status_code == 200, response.text
        return events(response.text)
