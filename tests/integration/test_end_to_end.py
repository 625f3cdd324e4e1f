"""SDK, HTTP, engine and model together, on a tiny model with unlike adapters."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

import lorry
from tests.support.tiny_adapters import write_unlike_adapters
from tests.support.tiny_model import write_tiny_model
from tests.support.whole_server import WholeServer, until, whole_server

PROMPT = "The quick brown fox jumps over the lazy dog and runs into the forest."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_unlike_adapters(folder, tmp_path_factory.mktemp("adapters"))


@pytest.fixture
async def server(folder: Path, adapters: dict[str, Path]) -> AsyncIterator[WholeServer]:
    async with whole_server(folder, adapters=adapters) as running:
        yield running


async def test_adapters_mixed_in_one_gather_answer_as_each_does_alone(
    server: WholeServer, adapters: dict[str, Path]
) -> None:
    names = [None, *adapters]
    async with lorry.AsyncClient(server.base_url) as client:

        async def ask(name: str | None) -> str:
            answer = await client.generate(
                PROMPT, adapter=name, max_tokens=20, temperature=0.0, ignore_eos=True
            )
            return answer.text

        alone = [await ask(name) for name in names]
        together = await asyncio.gather(*(ask(name) for name in names * 3))

    assert together == alone * 3
    assert len(set(alone)) == len(names)


async def test_a_stream_and_a_whole_answer_are_the_same_text(server: WholeServer) -> None:
    async with lorry.AsyncClient(server.base_url) as client:
        options = {"max_tokens": 30, "temperature": 0.8, "seed": 11}
        whole = await client.generate(PROMPT, **options)
        async with client.stream(PROMPT, **options) as stream:
            pieces = [token.text async for token in stream]
            streamed = await stream.final()

    assert "".join(pieces) == whole.text == streamed.text
    assert whole.usage.completion_tokens == streamed.usage.completion_tokens


async def test_a_seed_gives_the_same_text_whatever_else_is_running(server: WholeServer) -> None:
    async with lorry.AsyncClient(server.base_url) as client:
        options = {"max_tokens": 20, "temperature": 1.0, "top_p": 0.9, "seed": 3}
        alone = await client.generate(PROMPT, **options)
        crowd = [client.generate(f"{i} {PROMPT}", max_tokens=20, seed=i) for i in range(8)]
        answers = await asyncio.gather(client.generate(PROMPT, **options), *crowd)

    assert answers[0].text == alone.text


async def test_the_second_of_two_equal_prompts_comes_from_the_prefix_cache(
    server: WholeServer,
) -> None:
    async with lorry.AsyncClient(server.base_url) as client:
        first = await client.generate(PROMPT, max_tokens=4, temperature=0.0)
        second = await client.generate(PROMPT, max_tokens=4, temperature=0.0)
        other = await client.generate(PROMPT, max_tokens=4, temperature=0.0, adapter="qv-r4")

    assert first.server is not None
    assert second.server is not None
    assert other.server is not None
    assert first.server.cached_tokens == 0
    assert second.server.cached_tokens > 0
    assert other.server.cached_tokens == 0
    assert second.text == first.text


async def test_generate_many_keeps_the_order_and_the_adapters(server: WholeServer) -> None:
    requests = [
        lorry.Request(f"{PROMPT} {index}", adapter="all-r16" if index % 2 else None, tag=index)
        for index in range(12)
    ]
    async with lorry.AsyncClient(server.base_url) as client:
        answers = await client.generate_many(requests, max_tokens=5, temperature=0.0)

    assert [answer.tag for answer in answers] == list(range(12))
    assert [answer.adapter for answer in answers] == [None, "all-r16"] * 6


async def test_five_hundred_departures_leave_nothing_behind(server: WholeServer) -> None:
    """Clients leave at random moments, streamed or not, with and without an adapter."""
    rng = random.Random(5)
    names = ["tiny", "all-r16", "qv-r4", "down-r1"]

    async def visit(session: aiohttp.ClientSession, index: int) -> None:
        body = {
            "model": rng.choice(names),
            "prompt": f"{index} {PROMPT}",
            "max_tokens": 60,
            "ignore_eos": True,
            "stream": index % 2 == 0,
        }
        stay_s = rng.random() * 0.2
        try:
            async with asyncio.timeout(stay_s):
                async with session.post(f"{server.base_url}/v1/completions", json=body) as reply:
                    await reply.read()
        except TimeoutError:
            pass  # gone: the connection was closed in the middle

    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        for start in range(0, 500, 50):
            await asyncio.gather(*(visit(session, start + i) for i in range(50)))
        async with session.get(f"{server.base_url}/v1/models") as reply:
            assert reply.status == 200
    await server.service.drain()

    stats = server.service.stats()
    assert (stats.num_running, stats.num_waiting) == (0, 0)
    assert stats.num_used_blocks == 0
    assert stats.num_adapter_pins == 0
    server.engine.check_integrity()


async def test_a_client_that_leaves_stops_its_generation_streamed_or_not(
    server: WholeServer,
) -> None:
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 400, "ignore_eos": True}
    for stream in (True, False):
        async with aiohttp.ClientSession() as session:
            call = asyncio.create_task(
                post(session, f"{server.base_url}/v1/completions", body | {"stream": stream})
            )
            await until(lambda: server.service.stats().generation_tokens >= 5)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        await until(lambda: server.service.stats().num_running == 0)

        assert server.service.stats().num_used_blocks == 0
        assert server.service.stats().generation_tokens < 400


async def post(session: aiohttp.ClientSession, url: str, body: dict[str, object]) -> bytes:
    async with session.post(url, json=body) as reply:
        return await reply.read()


async def test_a_queue_that_is_full_says_when_to_come_back(folder: Path) -> None:
    async with (
        whole_server(folder, "--max-num-seqs", "1", "--max-queued-requests", "1") as server,
        aiohttp.ClientSession() as session,
    ):
        url = f"{server.base_url}/v1/completions"
        body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 200, "ignore_eos": True}
        calls = [asyncio.create_task(post(session, url, body)) for _ in range(2)]
        await until(
            lambda: server.service.stats().num_running + server.service.stats().num_waiting == 2
        )

        async with session.post(url, json=body) as refusal:
            error = (await refusal.json())["error"]
            assert refusal.status == 503
            assert int(refusal.headers["Retry-After"]) >= 1
            assert refusal.headers["x-should-retry"] == "true"
        async with session.post(f"{server.base_url}/generate", json={"inputs": "x"}) as refusal:
            assert refusal.status == 429
            assert json.loads(await refusal.text())["error_type"] == "overloaded"
        answers = await asyncio.gather(*calls)

    assert error["message"]
    assert all(json.loads(answer)["choices"] for answer in answers)
