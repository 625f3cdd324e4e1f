"""Requests with an idempotency key, to every route, and ways to know that they have met."""

from __future__ import annotations

from typing import Any

import httpx

from tests.support.http_app import MODEL

KEY = {"idempotency-key": "key-1"}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "p"}]}
WHOLE: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"model": MODEL, "prompt": ["p", "q"], "n": 2}),
    ("/v1/chat/completions", CHAT),
    ("/generate", {"inputs": "p"}),
    ("/", {"inputs": "p"}),
]
STREAMED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"model": MODEL, "prompt": "p", "stream": True}),
    ("/v1/chat/completions", CHAT | {"stream": True}),
    ("/generate_stream", {"inputs": "p"}),
    ("/", {"inputs": "p", "stream": True}),
]
COMPLETION = {"model": MODEL, "prompt": "p"}
STREAM = COMPLETION | {"stream": True}


async def num_joined(client: httpx.AsyncClient, url: str) -> int:
    """How many requests have joined one that was being answered."""
    metrics = (await client.get(f"{url}/metrics")).text
    (line,) = [
        line for line in metrics.splitlines() if 'answer="joined"' in line and "_total{" in line
    ]
    return int(float(line.rpartition(" ")[2]))


async def have_joined(client: httpx.AsyncClient, url: str, number: int) -> None:
    """Return when so many requests have joined one that is being answered."""
    while await num_joined(client, url) < number:
        pass


async def settle(client: httpx.AsyncClient, url: str) -> None:
    """Give the server time to notice what has happened to its other connections."""
    for _ in range(5):
        await client.get(f"{url}/health/live")


def num_sequences(body: dict[str, Any]) -> int:
    """How many a body of `WHOLE` or `STREAMED` asks for."""
    return 4 if isinstance(body.get("prompt"), list) else 1
