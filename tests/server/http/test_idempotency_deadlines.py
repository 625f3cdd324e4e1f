"""Of those who wait for one answer each has its own deadline, and no other's."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from lorry_server.http.answer_memory import AnswerMemory
from lorry_server.http.deadline import Deadline
from lorry_server.http.idempotency_key import IdempotencyKey
from tests.server.http.test_metrics import scrape, value
from tests.support.fake_engine import FakeEngine
from tests.support.fake_library import FakeAdapters, fake_library
from tests.support.http_app import events, fake_app, ids
from tests.support.live_server import live_server
from tests.support.repeated_requests import (
    COMPLETION,
    KEY,
    STREAM,
    STREAMED,
    WHOLE,
    have_joined,
    num_sequences,
)

SOON = {"x-request-timeout-ms": "300"}
LATE = {"x-request-timeout-ms": "60000"}


def is_late(answer: Any) -> bool:
    """Whether the body of an answer, or one event, says that the time was over."""
    error = answer.get("error")
    code = error["code"] if isinstance(error, dict) else answer.get("error_type")
    return bool(code == "deadline_exceeded")


@pytest.mark.parametrize(("path", "body"), WHOLE)
@pytest.mark.parametrize("second_has", [{}, LATE])
async def test_a_first_request_whose_time_is_over_is_told_alone(path, body, second_has):
    engine = FakeEngine(ids("hello"))
    engine.hold()
    engine.expire_after = 2
    async with live_server(fake_app(engine)) as url, httpx.AsyncClient(headers=KEY) as client:
        first = asyncio.create_task(client.post(url + path, json=body, headers=SOON))
        await engine.wait_for(lambda: bool(engine.submitted))
        second = asyncio.create_task(client.post(url + path, json=body, headers=second_has))
        late = await first
        assert engine.num_open == num_sequences(body)
        await engine.release()
        answer = await second
        samples = await scrape(client, url)

    assert late.status_code == 408
    assert late.headers["x-should-retry"] == "false"
    assert is_late(late.json())
    assert answer.status_code == 200
    assert engine.aborted == []
    assert value(samples, "lorry_requests_past_deadline_total", phase="joined") == 1


@pytest.mark.parametrize(("path", "body"), STREAMED)
async def test_a_first_stream_whose_time_is_over_ends_with_an_error_and_the_others_whole(
    path, body
):
    engine = FakeEngine(ids("hello"))
    engine.hold()
    engine.expire_after = 3
    async with live_server(fake_app(engine)) as url, httpx.AsyncClient(headers=KEY) as client:
        first = asyncio.create_task(client.post(url + path, json=body, headers=SOON))
        await engine.wait_for(lambda: bool(engine.submitted))
        await engine.step(2)
        second = asyncio.create_task(client.post(url + path, json=body, headers=LATE))
        late = await first
        assert engine.num_open == 1
        await engine.release()
        answer = await second
        again = await client.post(url + path, json=body)

    assert is_late(events(late.text)[-1])
    assert '"h"' in late.text
    assert not any(is_late(event) for event in events(answer.text) if event != "[DONE]")
    assert answer.text.startswith(late.text[: late.text.rindex("data: ")])
    assert again.content == answer.content
    assert len(engine.submitted) == 1


@pytest.mark.parametrize(("path", "body"), WHOLE)
async def test_one_that_joined_and_whose_time_is_over_is_told_alone(path, body):
    engine = FakeEngine(ids("hello"))
    engine.hold()
    async with live_server(fake_app(engine)) as url, httpx.AsyncClient(headers=KEY) as client:
        first = asyncio.create_task(client.post(url + path, json=body))
        await engine.wait_for(lambda: bool(engine.submitted))
        late = await client.post(url + path, json=body, headers=SOON)
        assert engine.num_open == num_sequences(body)
        await engine.release()
        answer = await first

    assert late.status_code == 408
    assert is_late(late.json())
    assert answer.status_code == 200


@pytest.mark.parametrize(("path", "body"), STREAMED)
async def test_one_that_joined_a_stream_keeps_its_deadline_in_the_middle_of_it(path, body):
    engine = FakeEngine(ids("hello"))
    engine.hold()
    async with live_server(fake_app(engine)) as url, httpx.AsyncClient(headers=KEY) as client:
        first = asyncio.create_task(client.post(url + path, json=body))
        await engine.wait_for(lambda: bool(engine.submitted))
        await engine.step(2)
        late = await client.post(url + path, json=body, headers=SOON)
        assert engine.num_open == 1
        await engine.release()
        answer = await first

    assert late.status_code == 200
    assert '"h"' in late.text
    assert is_late(events(late.text)[-1])
    assert '"error' not in answer.text


async def test_the_wait_for_an_adapter_goes_on_for_those_who_have_time():
    engine, adapters = FakeEngine(ids("hi")), FakeAdapters()
    gate = adapters.gate(adapters.offer("slow", "aaaa0000"))
    library = fake_library(engine, adapters)
    body = {"model": "slow", "prompt": "p"}
    async with (
        live_server(fake_app(engine, library)) as url,
        httpx.AsyncClient(headers=KEY) as client,
    ):
        first = asyncio.create_task(client.post(f"{url}/v1/completions", json=body, headers=SOON))
        await gate.has_been_reached()
        second = asyncio.create_task(client.post(f"{url}/v1/completions", json=body))
        late = await first
        gate.open()
        answer = await second

    assert (late.status_code, answer.status_code) == (408, 200)
    assert [request.deadline_s for request in engine.submitted] == [None]
    assert library.num_leases == 0


@pytest.mark.parametrize("body", [COMPLETION, STREAM])
async def test_when_everybodys_time_is_over_the_request_is_given_up(body):
    engine = FakeEngine(ids("hello"))
    engine.hold()
    async with live_server(fake_app(engine)) as url, httpx.AsyncClient(headers=KEY) as client:
        calls = [
            asyncio.create_task(client.post(f"{url}/v1/completions", json=body, headers=SOON))
            for _ in range(3)
        ]
        await engine.wait_for(lambda: bool(engine.submitted))
        await have_joined(client, url, 2)
        answers = [await call for call in calls]
        await engine.wait_for(lambda: engine.num_open == 0)
        await engine.release()
        good = await client.post(f"{url}/v1/completions", json=body)

    assert all("deadline_exceeded" in answer.text for answer in answers)
    assert len(engine.aborted) == 1
    assert good.status_code == 200
    assert "idempotent-replayed" not in good.headers


async def test_as_long_as_nobody_has_joined_the_engine_keeps_the_deadline():
    engine = FakeEngine(ids("hello"))
    engine.expire_after = 2
    async with live_server(fake_app(engine)) as url, httpx.AsyncClient(headers=KEY) as client:
        late = await client.post(f"{url}/v1/completions", json=COMPLETION, headers=LATE)
        engine.expire_after = None
        good = await client.post(f"{url}/v1/completions", json=COMPLETION, headers=LATE)

    assert (late.status_code, good.status_code) == (408, 200)
    assert engine.lifted == []
    assert engine.submitted[0].deadline_s is not None


async def test_an_answer_that_is_kept_holds_nothing_of_the_request_that_was_computed():
    memory = AnswerMemory()
    deadline = Deadline(0.0)
    answer = memory.begin(IdempotencyKey(b"", "a"), b"", deadline=deadline)
    memory.add_head(answer, 200, [])
    memory.add_chunk(answer, b"whole", is_last=True)
    memory.keep(answer)

    with answer.followed() as follower:
        assert answer.next_chunk(follower) == b"whole"

    assert not deadline.is_lifted
    assert answer.deadline is None


async def test_a_connection_is_good_for_another_request_when_its_time_was_over_alone():
    engine = FakeEngine(ids("hello"))
    engine.hold()
    limits = httpx.Limits(max_connections=1)
    async with (
        live_server(fake_app(engine)) as url,
        httpx.AsyncClient(headers=KEY, limits=limits) as leaver,
        httpx.AsyncClient(headers=KEY) as stayer,
    ):
        first = asyncio.create_task(
            leaver.post(f"{url}/v1/completions", json=COMPLETION, headers=SOON)
        )
        await engine.wait_for(lambda: bool(engine.submitted))
        second = asyncio.create_task(stayer.post(f"{url}/v1/completions", json=COMPLETION))
        await have_joined(stayer, url, 1)
        assert (await first).status_code == 408
        models = await leaver.get(f"{url}/v1/models")
        await engine.release()
        answer = await second

    assert models.status_code == 200
    assert answer.status_code == 200
