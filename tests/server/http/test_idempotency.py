"""The same request sent again under one key is computed once."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from lorry_server.errors import QueueFullError
from tests.server.http.test_metrics import scrape, value
from tests.support.fake_engine import FakeEngine, fake_info
from tests.support.fake_library import FakeAdapters, fake_library
from tests.support.http_app import events, fake_app, ids, in_process
from tests.support.live_server import live_server
from tests.support.repeated_requests import (
    CHAT,
    COMPLETION,
    KEY,
    STREAM,
    STREAMED,
    WHOLE,
    have_joined,
    num_sequences,
)


@pytest.mark.parametrize(("path", "body"), [*WHOLE, *STREAMED])
async def test_a_request_that_was_answered_is_answered_the_same_again(path, body):
    engine = FakeEngine(ids("hello"))
    async with in_process(fake_app(engine), headers=KEY) as client:
        first = await client.post(path, json=body)
        again = await client.post(path, json=body)

    assert first.status_code == again.status_code == 200
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert again.headers["content-type"] == first.headers["content-type"]
    assert len(engine.submitted) == num_sequences(body)


@pytest.mark.parametrize(("path", "body"), [*WHOLE, *STREAMED])
async def test_a_request_that_is_being_answered_is_joined(path, body):
    engine = FakeEngine(ids("hello"))
    engine.hold()
    async with live_server(fake_app(engine)) as url, httpx.AsyncClient(headers=KEY) as client:
        first = asyncio.create_task(client.post(url + path, json=body))
        await engine.wait_for(lambda: bool(engine.submitted))
        await engine.step(2)
        others = [asyncio.create_task(client.post(url + path, json=body)) for _ in range(3)]
        await have_joined(client, url, 3)
        await engine.release()
        answers = [call.result() for call in (await asyncio.wait([first, *others]))[0]]

    assert {answer.content for answer in answers} == {first.result().content}
    assert [answer.status_code for answer in answers] == [200] * 4
    assert [call.result().headers.get("idempotent-replayed") for call in others] == ["true"] * 3
    assert len(engine.submitted) == num_sequences(body)


async def test_who_joins_a_stream_gets_what_was_said_before_it_came_and_what_comes_as_it_comes():
    engine = FakeEngine(ids("hello"))
    engine.hold()
    async with (
        live_server(fake_app(engine)) as url,
        httpx.AsyncClient(headers=KEY) as client,
        client.stream("POST", f"{url}/v1/completions", json=STREAM) as first,
    ):
        await engine.step(2)
        assert '"h"' in await anext(first.aiter_lines())
        async with client.stream("POST", f"{url}/v1/completions", json=STREAM) as second:
            lines = second.aiter_lines()
            assert '"h"' in await anext(lines)
            await engine.step(1)
            seen = ""
            while '"l"' not in seen:
                seen = await anext(lines)
            assert engine.num_open == 1
            await engine.release()
            rest = [line async for line in lines if line]

    assert rest[-1] == "data: [DONE]"


async def test_requests_without_a_key_are_computed_each():
    engine = FakeEngine(ids("hello"))
    async with in_process(fake_app(engine)) as client:
        for _ in range(3):
            await client.post("/v1/completions", json=COMPLETION)

    assert len(engine.submitted) == 3


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", COMPLETION | {"prompt": "other"}),
        ("/v1/chat/completions", CHAT),
        ("/generate", {"inputs": "p"}),
    ],
)
@pytest.mark.parametrize("is_under_way", [True, False])
async def test_the_key_of_another_request_is_refused_by_name(path, body, is_under_way):
    engine = FakeEngine(ids("hello"))
    async with live_server(fake_app(engine)) as url, httpx.AsyncClient(headers=KEY) as client:
        if is_under_way:
            engine.hold()
        first = asyncio.create_task(client.post(f"{url}/v1/completions", json=COMPLETION))
        await engine.wait_for(lambda: bool(engine.submitted))
        if not is_under_way:
            await first
        refused = await client.post(url + path, json=body)
        await engine.release()
        await first

    assert refused.status_code == 422
    if path.startswith("/v1"):
        assert refused.json()["error"]["param"] == "idempotency-key"
        assert refused.json()["error"]["code"] == "idempotency_key_reused"
    else:
        assert "idempotency-key" in refused.json()["error"]
    assert len(engine.submitted) == 1
    assert first.result().status_code == 200


@pytest.mark.parametrize("wrong", ["", " ", "a b", "x" * 256, '"open', "é", "a\\b", '""'])
async def test_what_is_no_key_is_refused_by_name(wrong):
    engine = FakeEngine(ids("hello"))
    async with in_process(fake_app(engine)) as client:
        response = await client.post(
            "/v1/completions", json=COMPLETION, headers={"idempotency-key": wrong.encode()}
        )

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "idempotency-key"
    assert engine.submitted == []


async def test_a_key_in_quotes_is_the_same_key():
    engine = FakeEngine(ids("hello"))
    async with in_process(fake_app(engine)) as client:
        for written in ("a-key", '"a-key"'):
            await client.post(
                "/v1/completions", json=COMPLETION, headers={"idempotency-key": written}
            )

    assert len(engine.submitted) == 1


async def test_keys_of_two_api_keys_have_nothing_to_do_with_each_other():
    engine = FakeEngine(ids("hello"))
    app = fake_app(engine, api_keys=("one", "two"))
    async with in_process(app, headers=KEY) as client:
        answers = [
            await client.post(
                "/v1/completions",
                json=COMPLETION | {"prompt": key},
                headers={"authorization": f"Bearer {key}"},
            )
            for key in ("one", "two")
        ]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert len(engine.submitted) == 2


async def test_who_may_not_ask_gets_no_remembered_answer():
    engine = FakeEngine(ids("hello"))
    async with in_process(fake_app(engine, api_keys=("one",)), headers=KEY) as client:
        await client.post(
            "/v1/completions", json=COMPLETION, headers={"authorization": "Bearer one"}
        )
        refused = await client.post("/v1/completions", json=COMPLETION)

    assert refused.status_code == 401


async def test_what_was_refused_or_failed_is_computed_when_it_comes_again():
    engine = FakeEngine(ids("hello"))
    async with in_process(fake_app(engine), headers=KEY) as client:
        engine.refusal = QueueFullError("full", retry_after_s=1.0)
        full = await client.post("/v1/completions", json=COMPLETION)
        engine.refusal = ZeroDivisionError("a fault of our own")
        broken = await client.post("/v1/completions", json=COMPLETION)
        engine.refusal, engine.fail_after = None, 1
        failed = await client.post("/v1/completions", json=COMPLETION)
        failed_stream = await client.post(
            "/v1/completions", json=STREAM, headers={"idempotency-key": "key-2"}
        )
        engine.fail_after = None
        good = await client.post("/v1/completions", json=COMPLETION)
        good_stream = await client.post(
            "/v1/completions", json=STREAM, headers={"idempotency-key": "key-2"}
        )

    assert [a.status_code for a in (full, broken, failed, good)] == [503, 500, 500, 200]
    assert "idempotent-replayed" not in good.headers
    assert "error" in events(failed_stream.text)[-1]
    assert events(good_stream.text)[-1] == "[DONE]"


async def test_who_joined_gets_the_same_error():
    engine = FakeEngine(ids("hello"))
    engine.hold()
    async with live_server(fake_app(engine)) as url, httpx.AsyncClient(headers=KEY) as client:
        calls = [
            asyncio.create_task(client.post(f"{url}/v1/completions", json=COMPLETION))
            for _ in range(2)
        ]
        await engine.wait_for(lambda: bool(engine.submitted))
        await have_joined(client, url, 1)
        engine.fail_after = 1
        await engine.release()
        first, second = [await call for call in calls]

    assert first.status_code == second.status_code == 500
    assert first.json() == second.json()
    assert len(engine.submitted) == 1


async def test_who_joined_a_request_that_broke_without_an_answer_is_told():
    engine, adapters = FakeEngine(ids("hi")), FakeAdapters()
    gate = adapters.gate(adapters.offer("slow", "aaaa0000"))
    engine.refusal = ZeroDivisionError("a fault of our own")
    body = {"model": "slow", "prompt": "p"}
    app = fake_app(engine, fake_library(engine, adapters))
    async with live_server(app) as url, httpx.AsyncClient(headers=KEY) as client:
        first = asyncio.create_task(client.post(f"{url}/v1/completions", json=body))
        await gate.has_been_reached()
        second = asyncio.create_task(client.post(f"{url}/v1/completions", json=body))
        await have_joined(client, url, 1)
        gate.open()
        answers = [await first, await second]

    assert [answer.status_code for answer in answers] == [500, 500]
    assert "ZeroDivision" not in answers[1].text


async def test_an_answer_too_long_to_remember_is_a_conflict_and_is_not_computed_again():
    engine = FakeEngine(
        ids("x") * 300_000, info=fake_info(max_model_len=400_000), tokens_per_output=5000
    )
    body = STREAM | {"max_tokens": 300_000, "return_token_ids": True}
    async with live_server(fake_app(engine)) as url, httpx.AsyncClient(headers=KEY) as client:
        first = await client.post(f"{url}/v1/completions", json=body, timeout=60)
        again = await client.post(f"{url}/v1/completions", json=body)

    assert len(first.content) > 1024 * 1024
    assert again.status_code == 409
    assert again.json()["error"]["code"] == "idempotency_conflict"
    assert again.headers["x-should-retry"] == "false"
    assert len(engine.submitted) == 1


async def test_repeated_keys_are_counted_and_logged(log):
    engine = FakeEngine(ids("hello"))
    engine.hold()
    async with live_server(fake_app(engine)) as url, httpx.AsyncClient(headers=KEY) as client:
        first = asyncio.create_task(client.post(f"{url}/v1/completions", json=COMPLETION))
        await engine.wait_for(lambda: bool(engine.submitted))
        joined = asyncio.create_task(client.post(f"{url}/v1/completions", json=COMPLETION))
        await have_joined(client, url, 1)
        await engine.release()
        await asyncio.wait([first, joined])
        await client.post(f"{url}/v1/completions", json=COMPLETION)
        await client.post(f"{url}/v1/completions", json=COMPLETION | {"n": 2})
        samples = await scrape(client, url)

    counted = {
        answer: value(samples, "lorry_idempotent_requests_total", answer=answer)
        for answer in ("joined", "kept", "refused")
    }
    assert counted == {"joined": 1, "kept": 1, "refused": 1}
    generations = [record for record in log if record["path"] == "/v1/completions"]
    assert sorted(record.get("replayed", False) for record in generations) == [
        False,
        False,
        True,
        True,
    ]


async def test_each_request_keeps_its_own_request_id():
    async with in_process(fake_app(FakeEngine(ids("hello"))), headers=KEY) as client:
        answers = [
            await client.post(
                "/v1/completions", json=COMPLETION, headers={"x-request-id": request_id}
            )
            for request_id in ("one", "two")
        ]

    assert [answer.headers["x-request-id"] for answer in answers] == ["one", "two"]
    assert [answer.json()["timings"]["request_id"] for answer in answers] == ["one", "one"]


async def test_a_large_body_is_compared_too():
    engine = FakeEngine(ids("hi"))
    large = COMPLETION | {"prompt": "x" * 100, "user": "u" * 100_000}
    async with in_process(fake_app(engine), headers=KEY) as client:
        first = await client.post("/v1/completions", json=large)
        again = await client.post("/v1/completions", json=large)
        other = await client.post("/v1/completions", json=large | {"user": "v" * 100_000})

    assert [a.status_code for a in (first, again, other)] == [200, 200, 422]


@pytest.mark.parametrize(("path", "body"), [*WHOLE, *STREAMED])
async def test_every_answer_repeats_the_key_that_it_was_given(path, body):
    async with in_process(fake_app(FakeEngine(ids("hello")))) as client:
        answers = [await client.post(path, json=body, headers=KEY) for _ in range(2)]
        without = await client.post(path, json=body)

    given = KEY["idempotency-key"].strip('"')
    assert [answer.headers["idempotency-key"] for answer in answers] == [given, given]
    assert "idempotency-key" not in without.headers
