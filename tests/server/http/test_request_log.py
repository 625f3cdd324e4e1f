"""One structured record for each request, at its end."""

from __future__ import annotations

import asyncio

import httpx

from tests.support.fake_engine import FakeEngine
from tests.support.http_app import MODEL, fake_app, ids, in_process
from tests.support.live_server import live_server

BODY = {"model": MODEL, "prompt": "a secret"}


async def test_answered_request_is_logged_once_with_its_figures(log):
    engine = FakeEngine(ids("hi"), adapters=["sql"])
    async with in_process(fake_app(engine), headers={"x-request-id": "r1"}) as client:
        await client.post("/v1/completions", json=BODY | {"model": "sql"})

    (record,) = log
    assert record["event"] == "request"
    assert (record["request_id"], record["status"]) == ("r1", 200)
    assert (record["method"], record["path"]) == ("POST", "/v1/completions")
    assert (record["model"], record["adapter"], record["finish_reason"]) == (MODEL, "sql", "stop")
    assert (record["prompt_tokens"], record["completion_tokens"]) == (8, 3)
    assert (record["queue_ms"], record["prefill_ms"], record["decode_ms"]) == (1.5, 20.0, 30.0)


async def test_log_holds_neither_prompts_nor_answers_nor_keys(log):
    engine = FakeEngine(ids("the answer"))
    async with in_process(
        fake_app(engine, api_keys=("the-key",)), headers={"authorization": "Bearer the-key"}
    ) as client:
        await client.post("/v1/completions", json=BODY)
        await client.post("/v1/completions", json=BODY | {"unknown secret": 1})

    assert len(log) == 2
    assert not [word for word in ("secret", "answer", "the-key") if word in str(log)]


async def test_streamed_lorax_request_is_logged_with_its_figures(log):
    async with (
        live_server(fake_app(FakeEngine(ids("hi")))) as url,
        httpx.AsyncClient() as client,
    ):
        await client.post(f"{url}/generate_stream", json={"inputs": "p"})

    (record,) = log
    assert (record["stream"], record["completion_tokens"]) == (True, 3)
    assert (record["finish_reason"], record["decode_ms"]) == ("eos_token", 30.0)


async def test_client_that_left_is_logged_as_such(log):
    engine = FakeEngine(ids("hi"))
    engine.hold()
    async with live_server(fake_app(engine)) as url, httpx.AsyncClient() as client:
        call = asyncio.create_task(client.post(f"{url}/v1/completions", json=BODY))
        await engine.wait_for(lambda: bool(engine.submitted))
        call.cancel()
        await asyncio.wait([call])
        await engine.wait_for(lambda: engine.num_open == 0)

    (record,) = log
    assert record["abandoned"] is True


async def test_fault_of_our_own_is_logged_with_its_cause(log):
    engine = FakeEngine()
    engine.refusal = ZeroDivisionError("cause")
    async with in_process(fake_app(engine)) as client:
        await client.post("/v1/completions", json=BODY)

    fault, record = log
    assert (fault["event"], fault["exc_info"]) == ("request failed", True)
    assert (record["status"], record["error"]) == (500, "ZeroDivisionError")
