"""A lease is held exactly as long as its request, however that ends."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import httpx
import pytest

from lorry_server.adapters.library import AdapterLibrary
from lorry_server.errors import QueueFullError
from tests.support.fake_engine import FakeEngine
from tests.support.fake_library import FakeAdapters, fake_library
from tests.support.http_app import MODEL, fake_app, ids, in_process
from tests.support.live_server import live_server

OLD, NEW = "aaaa0000", "bbbb1111"
CHAT = {"messages": [{"role": "user", "content": "p"}]}

# Every way in, with one adapter.
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"model": "sql", "prompt": "p", "max_tokens": 3}),
    ("/v1/completions", {"model": "sql", "prompt": ["p", "q"], "n": 2, "max_tokens": 3}),
    ("/v1/completions", {"model": "sql", "prompt": "p", "max_tokens": 3, "stream": True}),
    ("/v1/completions", {"model": "sql", "prompt": "p", "stop": "ell", "stream": True}),
    ("/v1/completions", {"model": MODEL, "adapter_id": "sql", "prompt": "p", "best_of": 3}),
    ("/v1/chat/completions", {"model": "sql", "n": 2, **CHAT}),
    ("/v1/chat/completions", {"model": "sql", "stream": True, **CHAT}),
    ("/generate", {"inputs": "p", "parameters": {"adapter_id": "sql"}}),
    ("/generate_stream", {"inputs": "p", "parameters": {"adapter_id": "sql"}}),
    ("/", {"inputs": "p", "parameters": {"adapter_id": "sql"}, "stream": True}),
]


def served() -> tuple[FakeEngine, AdapterLibrary]:
    engine = FakeEngine(ids("hello"), adapters=["sql"])
    return engine, fake_library(engine)


async def until_idle(engine: FakeEngine, library: AdapterLibrary) -> None:
    await engine.wait_for(lambda: engine.num_open == 0)
    while library.num_leases:  # noqa: ASYNC110 - released in this turn of the loop, or soon
        await asyncio.sleep(0)


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_an_answered_request_holds_no_lease(path, body):
    engine, library = served()

    async with in_process(fake_app(engine, library)) as client:
        response = await client.post(path, json=body)

    assert response.status_code == 200
    assert engine.submitted[0].adapter == "digest-of-sql"
    assert library.num_leases == 0
    library.check_integrity()


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_a_request_that_fails_on_the_way_holds_no_lease(path, body):
    engine, library = served()
    engine.fail_after = 1

    async with in_process(fake_app(engine, library)) as client:
        await client.post(path, json=body)
        engine.refusal = QueueFullError("full", retry_after_s=1.0)
        refused = await client.post(path, json=body)
        engine.refusal = ZeroDivisionError("a fault of our own")
        await client.post(path, json=body)

    assert refused.status_code in (429, 503)
    assert library.num_leases == 0


@pytest.mark.parametrize(
    "changes",
    [{"prompt": "x" * 5000}, {"n": 100, "max_tokens": 2}, {"logit_bias": {"999999": 1.0}}],
)
async def test_a_request_that_is_refused_after_the_choice_holds_no_lease(changes):
    engine, library = served()
    body = {"model": "sql", "prompt": "p"} | changes

    async with in_process(fake_app(engine, library)) as client:
        response = await client.post("/v1/completions", json=body)

    assert response.status_code == 400
    assert library.num_leases == 0


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_a_client_that_leaves_gives_its_lease_back(path, body):
    engine, library = served()
    engine.hold()
    async with live_server(fake_app(engine, library)) as url, httpx.AsyncClient() as client:
        call = asyncio.create_task(client.post(f"{url}{path}", json=body))
        await engine.wait_for(lambda: bool(engine.submitted))
        assert library.num_leases == 1

        call.cancel()
        await asyncio.wait([call])
        await until_idle(engine, library)

    library.check_integrity()


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_a_client_that_leaves_while_its_adapter_loads_waits_for_nothing(path, body):
    engine, adapters = FakeEngine(ids("hello")), FakeAdapters()
    library = fake_library(engine, adapters)
    gate = adapters.gate(adapters.offer("sql", OLD))
    async with live_server(fake_app(engine, library)) as url, httpx.AsyncClient() as client:
        call = asyncio.create_task(client.post(f"{url}{path}", json=body))
        await gate.has_been_reached()
        assert library.awaited_names() == ("sql",)

        call.cancel()
        await asyncio.wait([call])
        while library.awaited_names():  # noqa: ASYNC110 - the server's own task ends the wait
            await asyncio.sleep(0)
        gate.open()
        answered = await client.post(f"{url}{path}", json=body)
        await until_idle(engine, library)

    assert answered.status_code == 200
    assert adapters.fetched == ["/root/sql"]


async def test_a_stream_ends_on_the_version_that_it_began_with():
    engine, adapters = FakeEngine(ids("hello")), FakeAdapters()
    library = fake_library(engine, adapters, kept_versions=1)
    adapters.put("/old", OLD)
    adapters.put("/new", NEW)
    engine.hold()
    body = {"model": "sql", "prompt": "p", "max_tokens": 5, "stream": True}
    async with live_server(fake_app(engine, library)) as url, httpx.AsyncClient() as client:
        await client.put(f"{url}/v1/adapters/sql", json={"source": "/old"})
        first = asyncio.create_task(client.post(f"{url}/v1/completions", json=body))
        await engine.wait_for(lambda: len(engine.submitted) == 1)
        await client.put(f"{url}/v1/adapters/sql", json={"source": "/new"})
        second = asyncio.create_task(client.post(f"{url}/v1/completions", json=body))
        await engine.wait_for(lambda: len(engine.submitted) == 2)

        assert [request.adapter for request in engine.submitted] == [OLD, NEW]
        assert set(engine.offered) == {OLD, NEW}
        await engine.release()
        answers = await asyncio.gather(first, second)
        await until_idle(engine, library)

    assert all("[DONE]" in answer.text for answer in answers)
    assert set(engine.offered) == {NEW}


async def test_an_adapter_that_is_unloaded_while_it_streams_finishes_its_stream():
    engine, library = served()
    engine.hold()
    body = {"model": "sql", "prompt": "p", "max_tokens": 5, "stream": True}
    async with live_server(fake_app(engine, library)) as url, httpx.AsyncClient() as client:
        call = asyncio.create_task(client.post(f"{url}/v1/completions", json=body))
        await engine.wait_for(lambda: bool(engine.submitted))

        deleted = await client.delete(f"{url}/v1/adapters/sql")
        late = await client.post(f"{url}/v1/completions", json=body)
        assert "digest-of-sql" in engine.offered
        await engine.release()
        answer = await call
        await until_idle(engine, library)

    assert (deleted.status_code, late.status_code, answer.status_code) == (200, 404, 200)
    assert answer.text.endswith("data: [DONE]\n\n")
    assert not engine.offered


async def test_two_hundred_random_requests_leave_every_lease_released():
    """Loads, replacements, disconnects, failures and refusals, in any order."""
    rng = random.Random(7)
    engine, adapters = FakeEngine(ids("hello")), FakeAdapters()
    library = fake_library(engine, adapters, host_memory_bytes=3500, failure_memory_s=0)
    for number in range(6):
        adapters.offer(f"a{number}", f"{number:08x}")

    def request() -> tuple[str, dict[str, Any]]:
        path, body = rng.choice(REQUESTS)
        name = f"a{rng.randrange(7)}"  # one of them does not exist
        text = {"model": name} if "model" in body else {}
        changed = body | text
        if "adapter_id" in body:
            changed |= {"model": MODEL, "adapter_id": name}
        if "parameters" in body:
            changed |= {"parameters": {"adapter_id": name}}
        return path, changed

    async with live_server(fake_app(engine, library)) as url, httpx.AsyncClient() as client:

        async def send() -> int | None:
            path, body = request()
            call = asyncio.create_task(client.post(f"{url}{path}", json=body, timeout=30))
            if rng.random() < 0.3:
                for _ in range(rng.randrange(30)):
                    await asyncio.sleep(0)
                call.cancel()
            await asyncio.wait([call])
            return None if call.cancelled() else call.result().status_code

        async def change() -> int | None:
            name = f"a{rng.randrange(6)}"
            if rng.random() < 0.5:
                response = await client.delete(f"{url}/v1/adapters/{name}")
            else:
                response = await client.put(
                    f"{url}/v1/adapters/{name}", json={"source": f"/root/a{rng.randrange(6)}"}
                )
            if response.status_code == 400:  # another worker deleted it meanwhile
                assert "was unloaded while it was being loaded" in response.text
                return None
            return response.status_code

        async def worker() -> list[int | None]:
            return [await (change if rng.random() < 0.2 else send)() for _ in range(25)]

        statuses = [s for part in await asyncio.gather(*(worker() for _ in range(8))) for s in part]
        await until_idle(engine, library)

    assert len(statuses) == 200
    assert set(statuses) <= {None, 200, 201, 404, 424, 429, 503}
    assert statuses.count(200) > 50
    library.check_integrity()
    assert set(engine.offered) == {v.digest for v in library.shelf if v.prepared is not None}
