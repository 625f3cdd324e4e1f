"""vLLM's two routes for adapters."""

from __future__ import annotations

import httpx
import pytest

from lorry_server.errors import AdapterError
from tests.support.fake_library import FakeAdapters
from tests.support.http_app import MODEL, app_with, in_process

OLD, NEW = "aaaa0000", "bbbb1111"


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
