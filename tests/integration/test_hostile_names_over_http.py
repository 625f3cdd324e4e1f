"""Names and links that would lead out of the roots, and a broken adapter asked for by a request."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest

import lorry
from tests.support.broken_adapters import BROKEN
from tests.support.sound_adapter import write_sound
from tests.support.tiny_adapters import write_unlike_adapters
from tests.support.tiny_model import write_tiny_model
from tests.support.whole_server import WholeServer, whole_server

PROMPT = "The quick brown fox jumps over the lazy dog and runs into the forest."
NEW_TOKENS = 24
HOSTILE_NAMES = (
    "..",
    "../secret",
    "a/../b",
    "/etc/passwd",
    "a//b",
    ".hidden",
    "a\nb",
    "a\x00b",
    "%2e%2e",
    "C:\\x",
    "sql*0.5+",
    "ä",
    "x" * 300,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_unlike_adapters(folder, tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that adapters may come from: a broken one, a sound one, and links that lead out of it."""
    root = tmp_path_factory.mktemp("root")
    outside = tmp_path_factory.mktemp("outside")
    BROKEN["weights are cut off"].write(root / "cut-off")
    write_sound(root / "sound")
    (outside / "secret").mkdir()
    (root / "link").symlink_to(outside / "secret")
    (root / "loop").symlink_to(root / "loop")
    return root


@pytest.fixture
async def server(folder: Path, adapters: dict[str, Path], root: Path) -> AsyncIterator[WholeServer]:
    flags = (f"--adapter-root={root}", "--adapter-failure-memory=0.001")
    async with whole_server(folder, *flags, adapters=adapters) as running:
        yield running


async def test_a_broken_adapter_that_a_request_asks_for_fails_that_request_alone(
    server: WholeServer, root: Path
) -> None:
    async with lorry.AsyncClient(server.base_url) as client:
        before = await answer(client, None)

        with pytest.raises(lorry.ClientError) as refused:
            await answer(client, "cut-off")

        assert "safetensors" in str(refused.value)
        assert await answer(client, None) == before


async def test_a_hostile_name_is_no_path(server: WholeServer, root: Path) -> None:
    before = sorted(info.name for info in server.library.list())
    async with aiohttp.ClientSession() as session:
        for name in HOSTILE_NAMES:
            async with session.post(
                f"{server.base_url}/v1/completions",
                json={"model": name, "prompt": "x", "max_tokens": 1},
            ) as response:
                assert response.status in (400, 404), name
            status, _ = await put(session, server, name, root / "sound")
            assert 400 <= status < 500, name
        async with session.get(f"{server.base_url}/health/ready") as response:
            assert response.status == 200

        assert sorted(info.name for info in server.library.list()) == before
        status, _ = await put(session, server, "good/name", root / "sound")
        assert status == 201  # it was the names


async def test_a_link_that_leads_out_of_the_root_is_not_followed(
    server: WholeServer, root: Path
) -> None:
    async with aiohttp.ClientSession() as session:
        for name in ("link", "loop"):
            status, text = await put(session, server, "linked", root / name)

            assert 400 <= status < 500
            assert "secret" not in text


async def answer(client: lorry.AsyncClient, name: str | None) -> str:
    generation = await client.generate(
        PROMPT, adapter=name, max_tokens=NEW_TOKENS, temperature=0.0, ignore_eos=True
    )
    return generation.text


async def put(
    session: aiohttp.ClientSession, server: WholeServer, name: str, source: Path
) -> tuple[int, str]:
    url = f"{server.base_url}/v1/adapters/{quote(name, safe='')}"
    async with session.put(url, json={"source": str(source)}) as response:
        return response.status, await response.text()
