"""Routes that clients of the compatible servers call: other names, and what is refused by name."""

from __future__ import annotations

import pytest

from lorry_server.engine.client import EngineStats
from tests.support.fake_engine import FakeEngine
from tests.support.http_app import fake_app, ids, in_process


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/v1/embeddings", "embeddings"),
        ("/embed", "embeddings"),
        ("/classify", "classify"),
        ("/classify_batch", "classify"),
    ],
)
async def test_what_this_server_does_not_do_is_refused_by_name(path, word):
    async with in_process(fake_app(FakeEngine())) as client:
        response = await client.post(path, json={"inputs": "p"})

    answer = response.json()
    assert response.status_code == 404
    if path.startswith("/v1"):
        assert answer["error"]["code"] == "unsupported_route"
        assert word in answer["error"]["message"]
    else:
        assert answer["error_type"] == "unsupported_route"
        assert word in answer["error"]


@pytest.mark.parametrize("path", ["/ping", "/startup"])
@pytest.mark.parametrize("is_healthy", [True, False])
async def test_other_names_of_health_answer_as_health(path, is_healthy):
    engine = FakeEngine()
    engine.current_stats = EngineStats(is_healthy=is_healthy)
    async with in_process(fake_app(engine)) as client:
        response, health = await client.get(path), await client.get("/health")

    assert response.status_code == health.status_code == (200 if is_healthy else 503)
    assert response.content == health.content


async def test_invocations_answers_as_the_root():
    async with in_process(fake_app(FakeEngine(ids("hi")))) as client:
        response = await client.post("/invocations", json={"inputs": "p"})

    (answer,) = response.json()
    assert answer["generated_text"] == "hi"
