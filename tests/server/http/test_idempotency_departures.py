"""Of those who wait for one answer any may leave; with the last of them it is given up."""

from __future__ import annotations

import asyncio
import json
import random

import httpx
import pytest

from tests.server.http.test_disconnects import silent_connection
from tests.support.fake_engine import FakeEngine, fake_info
from tests.support.fake_library import FakeAdapters, fake_library
from tests.support.http_app import fake_app, ids
from tests.support.live_server import live_server
from tests.support.repeated_requests import (
    COMPLETION,
    KEY,
    STREAM,
    STREAMED,
    WHOLE,
    have_joined,
    num_sequences,
    settle,
)

LONG = json.dumps(STREAM | {"max_tokens": 200_000, "return_token_ids": True}).encode()
LONG_HEADERS = {**KEY, "content-type": "application/json"}


def raw_request(content: bytes) -> bytes:
    return (
        f"POST /v1/completions HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        f"Idempotency-Key: {KEY['idempotency-key']}\r\nContent-Length: {len(content)}\r\n\r\n"
    ).encode() + content


@pytest.mark.parametrize(("path", "body"), [*WHOLE, *STREAMED])
async def test_the_first_may_leave_when_another_waits(path, body):
    engine = FakeEngine(ids("hello"))
    engine.hold()
    async with (
        live_server(fake_app(engine)) as url,
        httpx.AsyncClient(headers=KEY) as leaver,
        httpx.AsyncClient(headers=KEY) as stayer,
    ):
        first = asyncio.create_task(leaver.post(url + path, json=body))
        await engine.wait_for(lambda: bool(engine.submitted))
        second = asyncio.create_task(stayer.post(url + path, json=body))
        await have_joined(stayer, url, 1)
        first.cancel()
        await asyncio.wait([first])
        await settle(stayer, url)
        assert engine.num_open == num_sequences(body)
        await engine.release()
        answer = await second
        again = await stayer.post(url + path, json=body)

    assert answer.status_code == 200
    assert again.content == answer.content
    assert engine.aborted == []
    assert len(engine.submitted) == num_sequences(body)


@pytest.mark.parametrize(("path", "body"), [*WHOLE, *STREAMED])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
async def test_when_all_have_left_it_is_aborted_and_the_next_is_computed(path, body, order):
    engine = FakeEngine(ids("hello"))
    engine.hold()
    async with live_server(fake_app(engine)) as url, httpx.AsyncClient(headers=KEY) as client:
        calls: list[asyncio.Task[httpx.Response]] = []
        for num_joined in range(3):
            calls.append(asyncio.create_task(client.post(url + path, json=body)))
            await engine.wait_for(lambda: bool(engine.submitted))
            await have_joined(client, url, num_joined)
        for place in order:
            assert engine.num_open == num_sequences(body)
            calls[place].cancel()
            await asyncio.wait([calls[place]])
            await settle(client, url)
        await engine.wait_for(lambda: engine.num_open == 0)
        await engine.release()
        answer = await client.post(url + path, json=body)

    assert len(engine.aborted) == num_sequences(body)
    assert answer.status_code == 200
    assert "idempotent-replayed" not in answer.headers
    assert len(engine.submitted) == 2 * num_sequences(body)


async def test_a_request_that_waits_for_its_adapter_is_joined_too():
    engine, adapters = FakeEngine(ids("hi")), FakeAdapters()
    gate = adapters.gate(adapters.offer("slow", "aaaa0000"))
    library = fake_library(engine, adapters)
    body = {"model": "slow", "prompt": "p"}
    async with (
        live_server(fake_app(engine, library)) as url,
        httpx.AsyncClient(headers=KEY) as leaver,
        httpx.AsyncClient(headers=KEY) as stayer,
    ):
        first = asyncio.create_task(leaver.post(f"{url}/v1/completions", json=body))
        await gate.has_been_reached()
        second = asyncio.create_task(stayer.post(f"{url}/v1/completions", json=body))
        await have_joined(stayer, url, 1)
        first.cancel()
        await asyncio.wait([first])
        await settle(stayer, url)
        gate.open()
        answer = await second

    assert answer.status_code == 200
    assert len(engine.submitted) == 1
    assert library.num_leases == 0


@pytest.mark.parametrize("seed", range(3))
async def test_a_hundred_clients_that_come_and_go_with_ten_keys_leave_nothing_behind(seed):
    rng = random.Random(seed)
    engine = FakeEngine(ids("hello"), info=fake_info(max_num_seqs=1000))
    library = fake_library(engine)
    engine.hold()

    async def visit(client: httpx.AsyncClient, url: str, index: int) -> str:
        body = COMPLETION | {"prompt": f"p{index % 10}", "stream": index % 2 == 0}
        key = {"idempotency-key": str(index % 10)}
        call = asyncio.create_task(client.post(f"{url}/v1/completions", json=body, headers=key))
        if rng.random() < 0.5:
            await asyncio.sleep(rng.random() * 0.05)
            call.cancel()
            await asyncio.wait([call])
            return "left"
        return (await call).text

    async with (
        live_server(fake_app(engine, library)) as url,
        httpx.AsyncClient(limits=httpx.Limits(max_connections=None)) as client,
    ):
        visits = [asyncio.create_task(visit(client, url, index)) for index in range(100)]
        await engine.wait_for(lambda: len(engine.submitted) >= 5)
        await engine.release()
        texts = await asyncio.gather(*visits)
        await engine.wait_for(lambda: engine.num_open == 0)

    for index, text in enumerate(texts):
        if text != "left":
            assert text.endswith("data: [DONE]\n\n" if index % 2 == 0 else "}")
            assert '"error"' not in text


async def test_one_that_joined_and_takes_nothing_is_cut_off_alone(log):
    engine = FakeEngine(
        ids("x") * 200_000, info=fake_info(max_model_len=400_000), tokens_per_output=5000
    )
    app = fake_app(engine, stall_timeout_s=1.0)
    async with (
        live_server(app, send_buffer_bytes=4096) as url,
        httpx.AsyncClient(headers=LONG_HEADERS) as client,
    ):
        first = await client.post(f"{url}/v1/completions", content=LONG)
        with silent_connection(url) as connection:
            await asyncio.get_running_loop().sock_sendall(connection, raw_request(LONG))
            while len(log) < 2:  # noqa: ASYNC110 - the log sets no event
                await asyncio.sleep(0)
        again = await client.post(f"{url}/v1/completions", content=LONG)

    assert log[1]["replayed"] is True
    assert log[1]["abandoned"] is True
    assert again.content == first.content
    assert len(engine.submitted) == 1


async def test_a_first_reader_that_is_cut_off_leaves_nobody_with_half_an_answer_for_whole():
    engine = FakeEngine(
        ids("x") * 200_000, info=fake_info(max_model_len=400_000), tokens_per_output=1000
    )
    engine.hold()
    app = fake_app(engine, stall_timeout_s=1.0)
    async with (
        live_server(app, send_buffer_bytes=4096) as url,
        httpx.AsyncClient(headers=LONG_HEADERS) as client,
    ):
        with silent_connection(url) as connection:
            await asyncio.get_running_loop().sock_sendall(connection, raw_request(LONG))
            await engine.wait_for(lambda: bool(engine.submitted))
            joined = asyncio.create_task(client.post(f"{url}/v1/completions", content=LONG))
            await have_joined(client, url, 1)
            await engine.step(100_000)
            with pytest.raises(httpx.RemoteProtocolError):
                await joined
            await engine.wait_for(lambda: engine.num_open == 0)
        await engine.release()
        again = await client.post(f"{url}/v1/completions", content=LONG)

    assert again.text.endswith("data: [DONE]\n\n")
    assert "idempotent-replayed" not in again.headers
    assert len(engine.submitted) == 2
