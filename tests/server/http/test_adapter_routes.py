"""`/v1/adapters`: load, replace, look, unload, and the keys that open it."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from lorry_server.errors import AdapterError
from lorry_server.http.settings import HttpSettings
from tests.support.fake_engine import FakeEngine
from tests.support.fake_library import FakeAdapters, fake_library
from tests.support.http_app import MODEL, app_with, fake_app, ids, in_process
from tests.support.live_server import live_server

OLD, NEW = "aaaa0000", "bbbb1111"
BODY = {"prompt": "p", "max_tokens": 2}


async def until_ready(client: httpx.AsyncClient, url: str) -> None:
    while (await client.get(url)).json()["state"] != "ready":  # noqa: ASYNC110 - a thread loads it
        await asyncio.sleep(0.001)


async def test_an_adapter_is_put_shown_replaced_and_deleted():
    adapters = FakeAdapters()
    adapters.put("/old", OLD)
    adapters.put("/new", NEW)

    async with in_process(app_with(adapters)) as client:
        created = await client.put("/v1/adapters/team/sql", json={"source": "/old"})
        replaced = await client.put(
            "/v1/adapters/team/sql", json={"source": "/new", "pinned": True}
        )
        shown = await client.get("/v1/adapters/team/sql")
        listed = await client.get("/v1/adapters")
        deleted = await client.delete("/v1/adapters/team/sql")
        gone = await client.get("/v1/adapters/team/sql")

    assert (created.status_code, replaced.status_code) == (201, 200)
    first, second = created.json(), replaced.json()
    assert (first["id"], first["digest"], first["state"]) == ("team/sql", OLD, "ready")
    assert (first["object"], first["source"], first["tier"]) == ("adapter", "/old", "host")
    assert set(first["load_ms"]) == {"fetch", "read", "check", "prepare"}
    assert (second["digest"], second["pinned"]) == (NEW, True)
    assert second["versions"] == [NEW, OLD]
    assert shown.json() == second
    assert listed.json() == {"object": "list", "data": [second]}
    assert deleted.json() == {"id": "team/sql", "object": "adapter", "deleted": True}
    assert gone.status_code == 404


async def test_a_version_can_be_looked_at_and_used():
    adapters = FakeAdapters()
    adapters.put("/old", OLD)
    adapters.put("/new", NEW)
    engine = FakeEngine(ids("hello"))

    async with in_process(app_with(adapters, engine)) as client:
        for source in ("/old", "/new"):
            await client.put("/v1/adapters/sql", json={"source": source})
        shown = await client.get("/v1/adapters/sql@aaaa")
        answer = await client.post("/v1/completions", json=BODY | {"model": "sql@aaaa"})
        unknown = await client.post("/v1/completions", json=BODY | {"model": "sql@ffff"})

    assert shown.json()["digest"] == OLD
    assert engine.submitted[0].adapter == OLD
    assert answer.json()["model"] == "sql@aaaa"
    assert unknown.status_code == 404
    assert "has no version" in unknown.json()["error"]["message"]


async def test_an_adapter_without_preload_is_known_until_it_is_asked_for():
    adapters = FakeAdapters()
    adapters.put("/a", OLD)

    async with in_process(app_with(adapters)) as client:
        put = await client.put("/v1/adapters/sql", json={"source": "/a", "preload": False})
        model = await client.get("/v1/models/sql")
        answer = await client.post("/v1/completions", json=BODY | {"model": "sql"})
        shown = await client.get("/v1/adapters/sql")

    assert (put.status_code, put.json()["state"], put.json()["tier"]) == (201, "known", None)
    assert (model.json()["root"], model.json()["adapter"]) == ("/a", None)
    assert float(answer.headers["x-adapter-load-ms"]) > 0
    assert answer.headers["x-adapter-tier"] == "disk"
    assert shown.json()["state"] == "ready"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(None, 404, "adapter_not_found"), (AdapterError("holds NaN"), 400, "adapter_load_failed")],
)
async def test_a_source_that_cannot_be_loaded_is_the_callers_fault(error, status, code):
    adapters = FakeAdapters()
    if error is not None:
        adapters.errors["/x"] = error

    async with in_process(app_with(adapters)) as client:
        response = await client.put("/v1/adapters/sql", json={"source": "/x"})
        listed = await client.get("/v1/adapters")

    assert response.status_code == status
    body = response.json()["error"]
    assert (body["code"], body["param"]) == (code, "source")
    assert listed.json()["data"] == []


@pytest.mark.parametrize(
    "name", ["..%2F..%2Fetc", "%2e%2e", "%2Fetc", "a%2F%2Fb", "a%0Ab", "x" * 300, "a b", MODEL]
)
async def test_a_hostile_name_is_refused_and_never_looked_for(name):
    adapters = FakeAdapters()

    async with in_process(app_with(adapters)) as client:
        put = await client.put(f"/v1/adapters/{name}", json={"source": "/a"})
        got = await client.get(f"/v1/adapters/{name}")
        deleted = await client.delete(f"/v1/adapters/{name}")

    if "%0A" in name:  # no route's path has a line break in it
        assert put.status_code == 404
    else:
        assert put.status_code == 400
        assert put.json()["error"]["param"] == "name"
    assert (got.status_code, deleted.status_code) == (404, 404)
    assert len(put.content) < 1024
    assert adapters.fetched == adapters.looked_up == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "source"),
        ({"source": ""}, "source"),
        ({"source": "a\nb"}, "source"),
        ({"source": "/" + "a" * 5000}, "source"),
        ({"source": 5}, "source"),
        ({"source": "/a", "pinned": 1}, "pinned"),
        ({"source": "/a", "revision": "main"}, "revision"),
    ],
)
async def test_a_bad_body_is_refused_by_name(body, param):
    adapters = FakeAdapters()

    async with in_process(app_with(adapters)) as client:
        response = await client.put("/v1/adapters/sql", json=body)

    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert adapters.fetched == []


async def test_a_put_that_takes_too_long_says_when_to_ask_again_and_goes_on():
    adapters = FakeAdapters()
    adapters.put("/a", OLD)
    gate = adapters.gate("/a")

    async with in_process(app_with(adapters, load_timeout_s=0.1)) as client:
        response = await client.put("/v1/adapters/sql", json={"source": "/a"})
        loading = await client.get("/v1/adapters/sql")
        gate.open()
        await until_ready(client, "/v1/adapters/sql")

    assert response.status_code == 503
    assert response.json()["error"]["code"] == "adapter_loading"
    assert "retry-after" in response.headers
    assert loading.json()["state"] == "loading"


# -- keys


async def test_only_an_admin_key_changes_adapters_where_there_is_one():
    adapters = FakeAdapters()
    adapters.put("/a", OLD)
    app = app_with(adapters, api_keys=("user",), admin_keys=("admin",))
    changes = [
        ("PUT", "/v1/adapters/sql", {"source": "/a"}),
        ("POST", "/v1/load_lora_adapter", {"lora_name": "b", "lora_path": "/a"}),
        ("POST", "/v1/unload_lora_adapter", {"lora_name": "b"}),
        ("DELETE", "/v1/adapters/sql", None),
    ]

    async with in_process(app) as client:
        for method, path, body in changes:
            statuses = [
                (
                    await client.request(
                        method, path, json=body, headers={"authorization": f"Bearer {key}"}
                    )
                ).status_code
                for key in ("nobody", "user", "admin")
            ]
            assert statuses[:2] == [401, 403]
            assert statuses[2] in (200, 201)
        for key in ("user", "admin"):
            listed = await client.get("/v1/adapters", headers={"authorization": f"Bearer {key}"})
            assert listed.status_code == 200


async def test_an_admin_key_alone_closes_only_what_changes_adapters():
    adapters = FakeAdapters()
    adapters.put("/a", OLD)

    async with in_process(app_with(adapters, admin_keys=("admin",))) as client:
        listed = await client.get("/v1/adapters")
        refused = await client.put("/v1/adapters/sql", json={"source": "/a"})
        put = await client.put(
            "/v1/adapters/sql", json={"source": "/a"}, headers={"authorization": "Bearer admin"}
        )

    assert (listed.status_code, refused.status_code, put.status_code) == (200, 401, 201)
    assert refused.headers["www-authenticate"] == "Bearer"


def test_an_empty_admin_key_is_refused():
    with pytest.raises(ValueError, match="empty key"):
        HttpSettings(served_model_name="x", admin_keys=("",))


async def test_a_client_that_leaves_its_put_does_not_end_the_load():
    adapters, engine = FakeAdapters(), FakeEngine()
    library = fake_library(engine, adapters)
    adapters.put("/a", OLD)
    gate = adapters.gate("/a")
    async with live_server(fake_app(engine, library)) as url, httpx.AsyncClient() as client:
        call = asyncio.create_task(
            client.put(f"{url}/v1/adapters/sql", json={"source": "/a"}, timeout=30)
        )
        await gate.has_been_reached()
        call.cancel()
        await asyncio.wait([call])
        gate.open()
        await until_ready(client, f"{url}/v1/adapters/sql")

    assert list(engine.offered) == [OLD]
