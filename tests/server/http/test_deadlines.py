"""`x-request-timeout-ms` on every route that generates."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import pytest

from lorry_server.errors import DeadlineExceededError
from lorry_server.http.deadline import Deadline, before_deadline
from lorry_server.metrics import Metrics
from tests.server.http.test_metrics import scrape, value
from tests.support.fake_engine import FakeEngine
from tests.support.fake_library import FakeAdapters, fake_library
from tests.support.http_app import MODEL, events, fake_app, ids, in_process
from tests.support.live_server import live_server

HEADER = "x-request-timeout-ms"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "p"}]}
OPENAI: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"model": MODEL, "prompt": "p"}),
    ("/v1/completions", {"model": MODEL, "prompt": ["p", "q"], "n": 2}),
    ("/v1/chat/completions", CHAT),
]
LORAX: list[tuple[str, dict[str, Any]]] = [
    ("/generate", {"inputs": "p"}),
    ("/", {"inputs": "p"}),
    ("/invocations", {"inputs": "p"}),
]
STREAMED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"model": MODEL, "prompt": "p", "stream": True}),
    ("/v1/chat/completions", CHAT | {"stream": True}),
    ("/generate_stream", {"inputs": "p"}),
    ("/", {"inputs": "p", "stream": True}),
]


async def send(engine: FakeEngine, path: str, body: Any, timeout_ms: str) -> httpx.Response:
    async with in_process(fake_app(engine)) as client:
        headers = [(HEADER.encode(), timeout_ms.encode())]
        return await client.post(path, json=body, headers=headers)


@pytest.mark.parametrize(("path", "body"), [*OPENAI, *LORAX, *STREAMED])
async def test_the_engine_is_told_when_each_sequence_has_to_be_done(path, body):
    engine = FakeEngine(ids("hi"))

    response = await send(engine, path, body, "2500")

    assert response.status_code == 200
    assert engine.submitted
    for request in engine.submitted:
        assert request.deadline_s == pytest.approx(request.arrival_s + 2.5, abs=1e-9)


@pytest.mark.parametrize(("path", "body"), [OPENAI[0], LORAX[0]])
async def test_without_the_header_there_is_no_deadline(path, body):
    engine = FakeEngine(ids("hi"))

    async with in_process(fake_app(engine)) as client:
        await client.post(path, json=body)

    assert [request.deadline_s for request in engine.submitted] == [None]


@pytest.mark.parametrize("wrong", ["", "-1", "1.5", "1e3", "abc", "1" * 14, "٣", "0x10", "+5", " "])
async def test_a_wrong_value_is_refused_by_name(wrong):
    engine = FakeEngine(ids("hi"))

    openai = await send(engine, "/v1/completions", OPENAI[0][1], wrong)
    lorax = await send(engine, "/generate", {"inputs": "p"}, wrong)

    assert (openai.status_code, lorax.status_code) == (400, 422)
    assert openai.json()["error"]["param"] == HEADER
    assert HEADER in openai.json()["error"]["message"]
    assert "whole number of milliseconds" in lorax.json()["error"]
    assert engine.submitted == []


async def test_two_deadlines_are_refused():
    async with in_process(fake_app(FakeEngine())) as client:
        response = await client.post(
            "/v1/completions", json=OPENAI[0][1], headers=[(HEADER, "1000"), (HEADER, "2000")]
        )

    assert response.status_code == 400
    assert '["1000", "2000"]' in response.json()["error"]["message"]


async def test_routes_that_generate_nothing_do_not_look_at_it():
    async with in_process(fake_app(FakeEngine()), headers={HEADER: "nonsense"}) as client:
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/v1/models")).status_code == 200


@pytest.mark.parametrize(("path", "body"), OPENAI)
@pytest.mark.parametrize(("num_tokens", "doing"), [(0, "not computed"), (2, "being computed")])
async def test_a_deadline_that_passes_is_408_and_not_to_be_sent_again(
    path, body, num_tokens, doing
):
    engine = FakeEngine(ids("hello"))
    engine.expire_after = num_tokens

    response = await send(engine, path, body, "50")

    error = response.json()["error"]
    assert response.status_code == 408
    assert response.headers["x-should-retry"] == "false"
    assert "connection" not in response.headers  # the body has been read
    assert (error["code"], error["param"]) == ("deadline_exceeded", HEADER)
    assert doing in error["message"]
    assert engine.num_open == 0


@pytest.mark.parametrize(("path", "body"), LORAX)
async def test_on_loraxs_routes_the_error_has_loraxs_shape(path, body):
    engine = FakeEngine(ids("hello"))
    engine.expire_after = 1

    response = await send(engine, path, body, "50")

    assert response.status_code == 408
    assert response.json()["error_type"] == "deadline_exceeded"


@pytest.mark.parametrize(("path", "body"), STREAMED)
async def test_a_stream_whose_time_is_over_ends_with_an_error_event(path, body):
    engine = FakeEngine(ids("hello"))
    engine.expire_after = 2

    async with live_server(fake_app(engine)) as url, httpx.AsyncClient() as client:
        response = await client.post(url + path, json=body, headers={HEADER: "50"})

    received = events(response.text)
    assert response.status_code == 200
    assert "[DONE]" not in received
    last = received[-1]["error"]
    if path.startswith("/v1"):
        assert last["code"] == "deadline_exceeded"
    else:
        assert received[-1]["error_type"] == "deadline_exceeded"
    texts = json.dumps(received[:-1])
    assert '"h"' in texts
    assert '"l"' not in texts


async def test_waiting_for_an_adapter_counts():
    engine, adapters = FakeEngine(ids("hi")), FakeAdapters()
    source = adapters.offer("slow", "aaaa0000")
    gate = adapters.gate(source)
    library = fake_library(engine, adapters)
    body = {"model": "slow", "prompt": "p"}
    async with in_process(fake_app(engine, library)) as client:
        openai = await client.post("/v1/completions", json=body, headers={HEADER: "30"})
        lorax = await client.post(
            "/generate",
            json={"inputs": "p", "parameters": {"adapter_id": "slow"}},
            headers={HEADER: "30"},
        )
        samples = await scrape(client)
        gate.open()

    assert (openai.status_code, lorax.status_code) == (408, 408)
    assert "adapter" in openai.json()["error"]["message"]
    assert engine.submitted == []
    assert library.num_leases == 0
    assert value(samples, "lorry_requests_past_deadline_total", phase="preparing") == 2


async def test_a_body_that_comes_too_late_counts():
    engine = FakeEngine(ids("hi"))
    head = (
        f"POST /v1/completions HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        f"{HEADER}: 30\r\nContent-Length: 100\r\n\r\n{{"
    )
    async with live_server(fake_app(engine)) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.encode())
        status = await reader.readline()
        writer.close()

    assert status.startswith(b"HTTP/1.1 408 ")
    assert engine.submitted == []


async def test_requests_past_their_deadlines_are_counted_once_by_phase():
    engine = FakeEngine(ids("hello"))
    body = {"model": MODEL, "prompt": ["p", "q"], "n": 2}
    async with in_process(fake_app(engine), headers={HEADER: "50"}) as client:
        engine.expire_after = 0
        await client.post("/v1/completions", json=body)
        engine.expire_after = 2
        await client.post("/v1/completions", json=body)
        await client.post("/v1/completions", json=body)
        samples = await scrape(client)

    phases = {
        phase: value(samples, "lorry_requests_past_deadline_total", phase=phase)
        for phase in ("preparing", "waiting", "running", "joined")
    }
    assert phases == {"preparing": 0, "waiting": 1, "running": 2, "joined": 0}
    assert value(samples, "vllm:request_success_total", finished_reason="abort") == 12


async def test_a_timeout_of_something_else_stays_what_it_is():
    engine = FakeEngine()
    metrics = Metrics(engine, fake_library(engine), model_name=MODEL)
    now_s = time.perf_counter()

    with pytest.raises(TimeoutError):
        async with before_deadline(Deadline(now_s + 60), metrics=metrics):
            raise TimeoutError
    with pytest.raises(DeadlineExceededError):
        async with before_deadline(Deadline(now_s), metrics=metrics):
            await asyncio.Event().wait()
