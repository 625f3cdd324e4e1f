"""Broken adapters sent to a whole server while it answers: each is refused, nobody else notices."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from tests.support.broken_adapters import BROKEN, CONTRACT
from tests.support.sound_adapter import write_sound
from tests.support.tiny_model import write_tiny_model
from tests.support.whole_server import whole_server

NUM_STREAMS = 3


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "llama")


async def answer(client: httpx.AsyncClient, *, model: str, place: int) -> str:
    response = await client.post(
        "/v1/completions",
        json={
            "model": model,
            "prompt": f"{place} the thing",
            "max_tokens": 40,
            "temperature": 0,
            "ignore_eos": True,
        },
    )
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["text"])


async def answers(client: httpx.AsyncClient) -> list[str]:
    """Texts of the base and of a sound adapter, all in one batch."""
    models = ("tiny", "sound") * NUM_STREAMS
    return await asyncio.gather(
        *(answer(client, model=model, place=place) for place, model in enumerate(models))
    )


async def test_every_broken_adapter_is_refused_while_others_are_answered_as_before(
    base: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    sound = write_sound(root / "sound")
    for place, broken in enumerate(BROKEN.values()):
        broken.write(root / f"broken-{place}")
    async with (
        whole_server(base, f"--adapter-root={root}", adapters={"sound": sound}) as server,
        httpx.AsyncClient(base_url=server.base_url, timeout=60) as client,
    ):
        expected = await answers(client)
        is_over = asyncio.Event()

        async def keep_asking() -> None:
            while not is_over.is_set():
                assert await answers(client) == expected

        async with asyncio.TaskGroup() as group:
            group.create_task(keep_asking())
            for place, (name, broken) in enumerate(BROKEN.items()):
                response = await client.put(
                    f"/v1/adapters/b{place}", json={"source": str(root / f"broken-{place}")}
                )
                # where a file is missing there is no adapter
                wanted = 404 if name in ("no config", "no weights") else 400
                assert (name, response.status_code) == (name, wanted)
                assert broken.words in response.json()["error"]["message"], name
            is_over.set()

        cards = (await client.get("/v1/adapters")).json()["data"]
        assert [card["id"] for card in cards if card["state"] == "ready"] == ["sound"]


async def test_a_loaded_adapters_card_has_the_doctors_report_and_its_contract(
    base: Path, tmp_path: Path
) -> None:
    sound = write_sound(tmp_path / "sound")
    (sound / CONTRACT).write_text('{"description": "A test.", "max_tokens_ceiling": 8}')
    async with (
        whole_server(base, f"--adapter-root={tmp_path}") as server,
        httpx.AsyncClient(base_url=server.base_url, timeout=60) as client,
    ):
        card = (await client.put("/v1/adapters/sql", json={"source": str(sound)})).json()
        model = (await client.get("/v1/models/sql")).json()
        refused = await client.post(
            "/v1/completions", json={"model": "sql", "prompt": "x", "max_tokens": 9}
        )

    assert card["doctor"]["verdict"] == "ok"
    assert card["doctor"]["parity"]["relative_error"] < 1e-5
    assert card["contract"] == {"description": "A test.", "max_tokens_ceiling": 8}
    assert model["description"] == "A test."
    assert refused.status_code == 400
    assert "may be at most 8" in refused.json()["error"]["message"]
