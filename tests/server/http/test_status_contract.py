"""Status codes, error bodies and headers when the server cannot or must not answer."""

from __future__ import annotations

import httpx
import pytest

from lorry_server.engine.client import EngineStats
from lorry_server.errors import DrainingError, EngineDeadError, QueueFullError
from tests.support.fake_engine import FakeEngine
from tests.support.http_app import MODEL, fake_app, ids, in_process

OPENAI = [
    ("/v1/completions", {"model": MODEL, "prompt": "p"}),
    ("/v1/completions", {"model": MODEL, "prompt": "p", "stream": True}),
    ("/v1/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": "p"}]}),
]
LORAX = [
    ("/generate", {"inputs": "p"}),
    ("/generate_stream", {"inputs": "p"}),
    ("/", {"inputs": "p"}),
]


async def send(engine: FakeEngine, method: str, path: str, body: object = None) -> httpx.Response:
    async with in_process(fake_app(engine)) as client:
        return await client.request(method, path, json=body)


@pytest.mark.parametrize(("path", "body"), OPENAI)
async def test_full_queue_is_503_with_a_time_to_come_back(path, body):
    engine = FakeEngine(ids("x"))
    engine.refusal = QueueFullError("the queue is full", retry_after_s=1.25)

    response = await send(engine, "POST", path, body)

    assert response.status_code == 503
    assert response.headers["retry-after"] == "2"
    assert response.headers["retry-after-ms"] == "1250"
    assert response.headers["x-should-retry"] == "true"
    assert response.json()["error"]["code"] == "queue_full"


@pytest.mark.parametrize(("path", "body"), LORAX)
async def test_full_queue_is_429_on_loraxs_routes(path, body):
    engine = FakeEngine(ids("x"))
    engine.refusal = QueueFullError("the queue is full", retry_after_s=1.0)

    response = await send(engine, "POST", path, body)

    assert response.status_code == 429
    assert response.headers["retry-after"] == "1"
    assert response.json() == {"error": "Model is overloaded", "error_type": "overloaded"}


async def test_draining_server_sends_clients_elsewhere():
    engine = FakeEngine(ids("x"))
    engine.refusal = DrainingError("the server is shutting down", retry_after_s=5.0)

    openai = await send(engine, "POST", *OPENAI[0])
    lorax = await send(engine, "POST", *LORAX[0])

    assert (openai.status_code, lorax.status_code) == (503, 429)
    assert openai.json()["error"]["code"] == "draining"
    assert openai.headers["connection"] == lorax.headers["connection"] == "close"
    assert openai.headers["retry-after"] == lorax.headers["retry-after"] == "5"


async def test_dead_engine_is_503():
    engine = FakeEngine(ids("x"))
    engine.refusal = EngineDeadError("gone")

    response = await send(engine, "POST", *OPENAI[0])

    assert response.status_code == 503
    assert response.json()["error"]["code"] == "engine_dead"


async def test_failed_sequence_is_500_and_not_to_be_sent_again():
    engine = FakeEngine(ids("hello"))
    engine.fail_after = 1

    response = await send(engine, "POST", *OPENAI[0])

    assert response.status_code == 500
    assert response.headers["x-should-retry"] == "false"
    assert response.json()["error"]["type"] == "server_error"


@pytest.mark.parametrize(("path", "body"), [OPENAI[0], LORAX[0]])
async def test_fault_of_our_own_says_nothing_of_what_happened_inside(path, body):
    engine = FakeEngine(ids("x"))
    engine.refusal = ZeroDivisionError("secret at 0xdeadbeef in /home/me")

    response = await send(engine, "POST", path, body)

    assert response.status_code == 500
    assert "secret" not in response.text
    assert "ZeroDivision" not in response.text
    assert "Traceback" not in response.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1", 404),
        ("GET", "/v1/completions", 405),
        ("POST", "/v1/models", 405),
        ("POST", "/v1/completions/", 404),
    ],
)
async def test_wrong_route_under_v1_is_answered_in_openais_shape(method, path, status):
    response = await send(FakeEngine(), method, path, {})

    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/generate", 405),
        ("DELETE", "/", 405),
        ("POST", "/generate/", 404),
        ("POST", "/v1x", 404),
    ],
)
async def test_wrong_route_elsewhere_is_answered_in_loraxs_shape(method, path, status):
    response = await send(FakeEngine(), method, path, {})

    assert response.status_code == status
    assert set(response.json()) == {"error", "error_type"}


async def test_405_says_what_is_allowed():
    response = await send(FakeEngine(), "GET", "/v1/completions")

    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("stats", "status"),
    [
        (EngineStats(), "ready"),
        (EngineStats(is_healthy=False), "failed"),
        (EngineStats(is_draining=True), "draining"),
        (EngineStats(seconds_since_progress=11.0), "stuck"),
    ],
)
async def test_readiness_follows_the_engine(stats, status):
    engine = FakeEngine()
    engine.current_stats = stats
    is_ready = status == "ready"

    ready = await send(engine, "GET", "/health/ready")
    health = await send(engine, "GET", "/health")
    live = await send(engine, "GET", "/health/live")

    assert (ready.status_code, ready.json()) == (200 if is_ready else 503, {"status": status})
    assert live.status_code == 200
    if is_ready:
        assert (health.status_code, health.content) == (200, b"")
    else:
        assert health.status_code == 503
        assert health.json() == {"error": "unhealthy", "error_type": "healthcheck"}


async def test_root_answers_as_health():
    assert (await send(FakeEngine(), "GET", "/")).status_code == 200


@pytest.mark.parametrize("given", ["abc-DEF_123", "x" * 64])
async def test_request_id_of_the_client_is_kept(given):
    async with in_process(fake_app(FakeEngine(ids("x")))) as client:
        response = await client.post(
            "/v1/completions",
            json={"model": MODEL, "prompt": "p"},
            headers={"x-request-id": given},
        )

    assert response.headers["x-request-id"] == given
    assert response.json()["timings"]["request_id"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "a\x1b[31m", "é"])
async def test_request_id_that_is_none_is_replaced(given):
    async with in_process(fake_app(FakeEngine())) as client:
        response = await client.get("/health", headers={"x-request-id": given.encode()})

    assert response.headers["x-request-id"] != given
    assert response.headers["x-request-id"].isalnum()


async def test_two_requests_may_have_the_same_id():
    engine = FakeEngine(ids("x"))
    async with in_process(fake_app(engine), headers={"x-request-id": "same"}) as client:
        for _ in range(2):
            await client.post("/v1/completions", json={"model": MODEL, "prompt": "p"})

    first, second = engine.submitted
    assert first.request_id != second.request_id
