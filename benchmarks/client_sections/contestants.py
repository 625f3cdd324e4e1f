"""What is measured in this process: raw aiohttp as the floor, and lorry over every transport."""

from __future__ import annotations

import gc
import importlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import aiohttp

import lorry
from client_sections.closed_loop import Call
from lorry.transports.aiohttp_pool import KEEPALIVE_S, READ_BUFFER_BYTES

PROMPT = "The quick brown fox jumps over the lazy dog."
CALM_THRESHOLD = (200_000, 50, 100)
Opening: TypeAlias = Callable[[str], AbstractAsyncContextManager[Call]]


@asynccontextmanager
async def raw_aiohttp(url: str) -> AsyncIterator[Call]:
    """The same requests by hand: the body once, the answer read and, if streamed, split at blank
    lines. Nothing is decoded."""
    address = f"{url}/v1/completions"
    headers = {"content-type": "application/json", "accept-encoding": "identity"}
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
        cookie_jar=aiohttp.DummyCookieJar(),
        read_bufsize=READ_BUFFER_BYTES,
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
    )

    async def call(stream: bool, num_tokens: int) -> int:
        body = {"model": "", "prompt": PROMPT, "max_tokens": num_tokens, "return_token_ids": True}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        async with session.post(address, data=json.dumps(body), headers=headers) as response:
            if not stream:
                return len(await response.read()) and 1
            num_events, rest = 0, b""
            async for data in response.content.iter_any():
                *events, rest = (rest + data).split(b"\n\n")
                num_events += len(events)
            return num_events

    async with session:
        yield call


def over(transport: str | None, *, limit: int | None = None) -> Opening:
    """lorry over `httpx` or `httpx2`, or over its default if None, with so many calls in flight."""

    @asynccontextmanager
    async def opening(url: str) -> AsyncIterator[Call]:
        if transport is None:
            async with lorry.AsyncClient(url, timeout=_PATIENT, limit=limit) as client:
                yield _lorry_call(client)
            return
        library: Any = importlib.import_module(transport)
        limits = library.Limits(max_connections=None, max_keepalive_connections=None)
        async with (
            library.AsyncClient(limits=limits) as http,
            lorry.AsyncClient(url, timeout=_PATIENT, transport=http, limit=limit) as client,
        ):
            yield _lorry_call(client)

    return opening


def with_calm_collector(opening: Opening) -> Opening:
    """The same while Python looks for cyclic garbage rarely, and not among what is there already."""

    @asynccontextmanager
    async def calm(url: str) -> AsyncIterator[Call]:
        before = gc.get_threshold()
        gc.freeze()
        gc.set_threshold(*CALM_THRESHOLD)
        try:
            async with opening(url) as call:
                yield call
        finally:
            gc.set_threshold(*before)
            gc.unfreeze()

    return calm


@asynccontextmanager
async def openai_over_lorry(url: str) -> AsyncIterator[Call]:
    """The package `openai` over our aiohttp."""
    async with lorry.AsyncClient(url, timeout=_PATIENT) as client:
        through = client.openai()

        async def call(stream: bool, num_tokens: int) -> int:
            if not stream:
                await through.completions.create(model="", prompt=PROMPT, max_tokens=num_tokens)
                return 1
            chunks = await through.completions.create(
                model="", prompt=PROMPT, max_tokens=num_tokens, stream=True
            )
            return len([chunk async for chunk in chunks])

        yield call


def _lorry_call(client: lorry.AsyncClient) -> Call:
    async def call(stream: bool, num_tokens: int) -> int:
        if not stream:
            await client.generate(PROMPT, max_tokens=num_tokens)
            return 1
        num_events = 0
        async for _ in client.stream(PROMPT, max_tokens=num_tokens):
            num_events += 1
        return num_events

    return call


# thousands of connections at once may take longer than the default allows for one
_PATIENT = lorry.Timeout(total=600.0, connect=None)
