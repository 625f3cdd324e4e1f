"""First requests for adapters by name: they load it, wait for it, or learn why not."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from lorry_server.errors import AdapterError
from tests.support.fake_engine import FakeEngine
from tests.support.fake_library import FakeAdapters, fake_library
from tests.support.http_app import MODEL, app_with, fake_app, ids, in_process
from tests.support.live_server import live_server

OLD, NEW = "aaaa0000", "bbbb1111"
BODY = {"prompt": "p", "max_tokens": 2}


async def test_a_first_request_by_name_loads_the_adapter_and_says_so():
    adapters, engine = FakeAdapters(), FakeEngine(ids("hello"))
    adapters.offer("team/sql", OLD)

    async with in_process(app_with(adapters, engine)) as client:
        first = await client.post("/v1/completions", json=BODY | {"model": "team/sql"})
        second = await client.post("/v1/completions", json=BODY | {"model": "team/sql"})
        lorax = await client.post(
            "/generate",
            json={"inputs": "p", "parameters": {"adapter_id": "team/sql", "max_new_tokens": 2}},
        )
        models = await client.get("/v1/models")

    assert first.headers["x-adapter-tier"] == "disk"
    assert float(first.headers["x-adapter-load-ms"]) > 0
    assert "x-adapter-load-ms" not in second.headers
    assert lorax.status_code == 200
    assert [request.adapter for request in engine.submitted] == [OLD] * 3
    assert [card["id"] for card in models.json()["data"]] == [MODEL, "team/sql"]


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_headers_of_a_wait_are_on_streams_too(is_streamed):
    adapters = FakeAdapters()
    adapters.offer("sql", OLD)

    async with in_process(app_with(adapters)) as client:
        response = await client.post(
            "/v1/chat/completions",
            json={
                "model": "sql",
                "messages": [{"role": "user", "content": "p"}],
                "stream": is_streamed,
            },
        )

    assert response.headers["x-adapter-tier"] == "disk"


async def test_a_broken_adapter_is_a_failed_dependency_in_each_dialect():
    adapters, engine = FakeAdapters(), FakeEngine(ids("hello"))
    adapters.errors[adapters.offer("sql", OLD)] = AdapterError("tensor 'x' holds NaN")

    async with in_process(app_with(adapters, engine)) as client:
        openai = await client.post("/v1/completions", json=BODY | {"model": "sql"})
        lorax = await client.post(
            "/generate_stream", json={"inputs": "p", "parameters": {"adapter_id": "sql"}}
        )

    assert (openai.status_code, lorax.status_code) == (424, 424)
    error = openai.json()["error"]
    assert (error["code"], error["param"]) == ("adapter_load_failed", "model")
    assert "holds NaN" in error["message"]
    assert lorax.json()["error_type"] == "generation"
    assert lorax.json()["error"].startswith("Request failed during generation: adapter 'sql' could")
    assert "holds NaN" in lorax.json()["error"]
    assert "ago" in lorax.json()["error"]  # it was not tried again
    assert not engine.submitted


async def test_an_adapter_that_takes_too_long_is_503_and_on_loraxs_routes_424():
    adapters = FakeAdapters()
    gate = adapters.gate(adapters.offer("sql", OLD))

    async with in_process(app_with(adapters, load_timeout_s=0.02)) as client:
        openai = await client.post("/v1/completions", json=BODY | {"model": "sql"})
        lorax = await client.post(
            "/generate", json={"inputs": "p", "parameters": {"adapter_id": "sql"}}
        )
    gate.open()

    assert (openai.status_code, lorax.status_code) == (503, 424)
    assert openai.headers["x-should-retry"] == "true"
    assert "still being loaded" in openai.json()["error"]["message"]
    assert "still being loaded" in lorax.json()["error"]


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc", "a//b", "%2e%2e", "a\nb", "x" * 300, "..", "\x00", "a/b/c"]
)
async def test_a_hostile_name_in_a_request_is_not_found_and_never_looked_for(name):
    adapters = FakeAdapters()

    async with in_process(app_with(adapters)) as client:
        openai = await client.post("/v1/completions", json=BODY | {"model": name})
        lorax = await client.post(
            "/generate",
            json={"inputs": "p", "parameters": {"adapter_id": name, "adapter_source": "local"}},
        )

    assert (openai.status_code, lorax.status_code) == (404, 424)
    assert len(openai.content) < 1024
    assert adapters.looked_up == adapters.fetched == []


@pytest.mark.parametrize("field", ["api_token"])
async def test_a_token_for_fetching_is_refused_by_name(field):
    adapters = FakeAdapters()
    adapters.offer("sql", OLD)

    async with in_process(app_with(adapters)) as client:
        response = await client.post(
            "/generate", json={"inputs": "p", "parameters": {"adapter_id": "sql", field: "secret"}}
        )

    assert response.status_code == 422
    assert field in response.json()["error"]
    assert "secret" not in response.text
    assert adapters.fetched == []


async def test_a_request_that_is_wrong_in_itself_loads_nothing():
    adapters = FakeAdapters()
    adapters.offer("sql", OLD)

    async with in_process(app_with(adapters)) as client:
        response = await client.post(
            "/v1/completions", json=BODY | {"model": "sql", "n": 3, "best_of": 2}
        )

    assert response.status_code == 400
    assert adapters.fetched == []


async def test_memory_that_is_full_of_adapters_in_use_is_503_for_now():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(adapters=["law"]), adapters, host_memory_bytes=1500)
    adapters.offer("sql", OLD)

    async with in_process(fake_app(FakeEngine(), library)) as client:
        openai = await client.post("/v1/completions", json=BODY | {"model": "sql"})
        lorax = await client.post(
            "/generate", json={"inputs": "p", "parameters": {"adapter_id": "sql"}}
        )

    assert (openai.status_code, openai.json()["error"]["code"]) == (503, "adapters_full")
    assert openai.headers["retry-after"] == "1"
    assert "fill the 1500 bytes" in openai.json()["error"]["message"]
    assert (lorax.status_code, lorax.json()["error_type"]) == (429, "overloaded")
    assert "fill the 1500 bytes" in lorax.json()["error"]


async def test_an_adapter_that_waits_for_room_too_long_is_503_and_says_that_it_is_room_it_lacks():
    adapters = FakeAdapters()
    for name, digest in (("sql", OLD), ("law", NEW)):
        adapters.offer(name, digest)
    adapters.put("/tax", "cccc2222")
    engine = FakeEngine(ids("hi"))
    library = fake_library(engine, adapters, host_memory_bytes=1500, load_timeout_s=0.3)
    engine.hold()
    async with live_server(fake_app(engine, library)) as url, httpx.AsyncClient() as client:
        running = asyncio.create_task(
            client.post(f"{url}/v1/completions", json=BODY | {"model": "sql"})
        )
        await engine.wait_for(lambda: bool(engine.submitted))
        newcomer = await client.post(f"{url}/v1/completions", json=BODY | {"model": "law"})
        put = await client.put(f"{url}/v1/adapters/tax", json={"source": "/tax"})
        sent_away = await client.post(
            f"{url}/generate", json={"inputs": "p", "parameters": {"adapter_id": "sql"}}
        )
        await engine.release()
        answer = await running
        later = await client.post(f"{url}/v1/completions", json=BODY | {"model": "law"})

    for refused in (newcomer, put):
        error = refused.json()["error"]
        assert (refused.status_code, error["code"]) == (503, "adapters_full")
        assert "no room within 0.3 s" in error["message"]
        assert "--adapter-host-memory" in error["message"]
        assert refused.headers["retry-after"] == "5"
    assert sent_away.status_code == 429
    assert "make room for another" in sent_away.json()["error"]
    assert (answer.status_code, later.status_code) == (200, 200)


@pytest.mark.parametrize(
    ("source", "word"), [("hf://org/sql", "hub"), ("s3://bucket/sql", "s3"), ("/a", "local")]
)
async def test_loraxs_header_says_where_an_adapter_is_from(source, word):
    adapters = FakeAdapters()
    adapters.put(source, OLD)
    adapters.found["sql"] = source

    async with in_process(app_with(adapters)) as client:
        response = await client.post(
            "/generate", json={"inputs": "p", "parameters": {"adapter_id": "sql"}}
        )

    assert response.headers["x-adapter-source"] == word
    assert response.headers["x-adapter-tier"] == "disk"
