"""`/v1/adapters`: load, replace, look, unload; and first requests for adapters by name."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from lorry_server.errors import AdapterError
from lorry_server.http.settings import HttpSettings
from tests.support.fake_engine import FakeEngine
from tests.support.fake_library import FakeAdapters, fake_library
from tests.support.http_app import MODEL, fake_app, ids, in_process
from tests.support.live_server import live_server

OLD, NEW = "aaaa0000", "bbbb1111"
BODY = {"prompt": "p", "max_tokens": 2}


def app_with(adapters: FakeAdapters, engine: FakeEngine | None = None, **options: object):
    engine = engine or FakeEngine(ids("hello"))
    library_options = {
        name: options.pop(name) for name in ("load_timeout_s", "clock") if name in options
    }
    return fake_app(engine, fake_library(engine, adapters, **library_options), **options)


async def until_ready(client: httpx.AsyncClient, url: str) -> None:
    while (await client.get(url)).json()["state"] != "ready":  # noqa: ASYNC110
        await asyncio.sleep(0.001)  # for the thread that loads it


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

    async with in_process(app_with(adapters, load_timeout_s=0.02)) as client:
        response = await client.put("/v1/adapters/sql", json={"source": "/a"})
        loading = await client.get("/v1/adapters/sql")
        gate.open()
        await until_ready(client, "/v1/adapters/sql")

    assert response.status_code == 503
    assert response.json()["error"]["code"] == "adapter_loading"
    assert "retry-after" in response.headers
    assert loading.json()["state"] == "loading"


# -- first requests


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


# -- vLLM's routes


async def test_vllms_routes_answer_with_vllms_words():
    adapters = FakeAdapters()
    adapters.put("/a", OLD)
    adapters.put("/b", NEW)
    adapters.errors["/nan"] = AdapterError("holds NaN")

    async with in_process(app_with(adapters)) as client:

        async def load(**body: object) -> httpx.Response:
            return await client.post("/v1/load_lora_adapter", json=body)

        async def unload(**body: object) -> httpx.Response:
            return await client.post("/v1/unload_lora_adapter", json=body)

        loaded = await load(lora_name="sql", lora_path="/a")
        again = await load(lora_name="sql", lora_path="/a")
        in_place = await load(lora_name="sql", lora_path="/b", load_inplace=True)
        digest = (await client.get("/v1/adapters/sql")).json()["digest"]
        missing = await load(lora_name="law", lora_path="/nowhere")
        broken = await load(lora_name="law", lora_path="/nan")
        base = await load(lora_name=MODEL, lora_path="/a")
        nothing = await load(lora_name="law")
        unloaded = await unload(lora_name="sql")
        unknown = await unload(lora_name="sql")
        unnamed = await unload()

    assert (loaded.status_code, loaded.text) == (
        200,
        "Success: LoRA adapter 'sql' added successfully.",
    )
    assert in_place.status_code == 200
    assert digest == NEW
    assert (unloaded.status_code, unloaded.text) == (
        200,
        "Success: LoRA adapter 'sql' removed successfully.",
    )
    refusals = {
        again: (
            400,
            "InvalidUserInput",
            "The lora adapter 'sql' has already been loaded. If you want to load the adapter in "
            "place, set 'load_inplace' to True.",
        ),
        missing: (404, "NotFoundError", "Loading lora law failed: No adapter found for /nowhere"),
        base: (
            400,
            "InvalidUserInput",
            f"The lora adapter name '{MODEL}' conflicts with a served base model.",
        ),
        nothing: (400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must be provided."),
        unknown: (404, "NotFoundError", "The lora adapter 'sql' cannot be found."),
        unnamed: (
            400,
            "InvalidUserInput",
            "'lora_name' needs to be provided to unload a LoRA adapter.",
        ),
    }
    for response, (status, kind, message) in refusals.items():
        assert response.status_code == status
        assert response.json() == {
            "error": {"message": message, "type": kind, "param": None, "code": status}
        }
    assert (broken.status_code, broken.json()["error"]["type"]) == (400, "BadRequestError")
    assert "holds NaN" in broken.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("load", {"is_3d_lora_weight": True}, "is_3d_lora_weight"),
        ("load", {"lora_name": "x" * 1000}, "lora_name"),
        ("load", {"base_model_name": "x"}, "base_model_name"),
        ("unload", {"lora_int_id": 3}, "lora_int_id"),
    ],
)
async def test_what_vllms_routes_do_not_do_here_is_refused_by_name(path, body, param):
    adapters = FakeAdapters()
    named = {"lora_name": "sql"} | ({"lora_path": "/a"} if path == "load" else {})

    async with in_process(app_with(adapters)) as client:
        response = await client.post(f"/v1/{path}_lora_adapter", json=named | body)

    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert adapters.fetched == []


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
