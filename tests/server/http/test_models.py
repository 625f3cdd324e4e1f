"""`GET /v1/models`."""

from __future__ import annotations

import pytest

from tests.support.fake_engine import FakeEngine
from tests.support.http_app import MODEL, fake_app, in_process


async def test_list_has_the_base_model_and_a_card_for_each_adapter():
    async with in_process(fake_app(FakeEngine(adapters=["sql", "team/law"]))) as client:
        answer = (await client.get("/v1/models")).json()

    base, sql, law = answer["data"]
    assert answer["object"] == "list"
    assert (base["id"], base["root"], base["max_model_len"]) == (MODEL, "tiny/model", 128)
    assert (base["object"], base["parent"], base["adapter"]) == ("model", None, None)
    assert (sql["id"], sql["parent"], sql["root"]) == ("sql", MODEL, "/adapters/sql")
    assert sql["adapter"]["rank"] == 8
    assert law["id"] == "team/law"


@pytest.mark.parametrize("name", [MODEL, "sql", "team/law"])
async def test_one_card_can_be_asked_for(name):
    async with in_process(fake_app(FakeEngine(adapters=["sql", "team/law"]))) as client:
        card = (await client.get(f"/v1/models/{name}")).json()

    assert card["id"] == name


async def test_unknown_card_is_not_found():
    async with in_process(fake_app(FakeEngine())) as client:
        response = await client.get("/v1/models/nobody")

    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
