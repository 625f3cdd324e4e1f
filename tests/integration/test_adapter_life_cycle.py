"""Adapters that are loaded, replaced and unloaded under a real engine while it answers."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import fsspec
import httpx
import pytest

from tests.support.tiny_adapters import write_unlike_adapters
from tests.support.tiny_model import write_tiny_model
from tests.support.whole_server import until, whole_server

PROMPT = "The quick brown fox jumps over the lazy dog and runs into the forest."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture(scope="module")
def root(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of adapters by name, one of them broken."""
    root = tmp_path_factory.mktemp("adapters")
    adapters = write_unlike_adapters(folder, root)
    shutil.copytree(adapters["qv-r4"], root / "broken")
    weights = root / "broken" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return root


async def ask(client: httpx.AsyncClient, url: str, model: str, num_tokens: int = 12) -> str:
    response = await client.post(
        f"{url}/v1/completions",
        json={
            "model": model,
            "prompt": PROMPT,
            "max_tokens": num_tokens,
            "temperature": 0,
            "ignore_eos": True,
        },
        timeout=200,
    )
    assert response.status_code == 200, response.text
    text: str = response.json()["choices"][0]["text"]
    return text


async def references(folder: Path, root: Path, names: list[str]) -> dict[str, str]:
    """What each adapter answers when it is given at the start and alone."""
    async with (
        whole_server(folder, adapters={name: root / name for name in names}) as server,
        httpx.AsyncClient() as client,
    ):
        return {name: await ask(client, server.base_url, name) for name in names}


async def test_names_below_a_root_answer_as_if_they_had_been_given_at_the_start(folder, root):
    names = ["all-r16", "qv-r4", "down-r1"]
    expected = await references(folder, root, names)

    async with (
        whole_server(folder, "--adapter-root", str(root)) as server,
        httpx.AsyncClient() as client,
    ):
        url = server.base_url
        answers = await asyncio.gather(*(ask(client, url, name) for name in names * 4))
        cards = (await client.get(f"{url}/v1/adapters")).json()["data"]
        unknown = await client.post(f"{url}/v1/completions", json={"model": "no", "prompt": "p"})
        server.library.check_integrity()

    assert answers == [expected[name] for name in names * 4]
    assert sorted(card["id"] for card in cards) == sorted(names)
    assert {card["tier"] for card in cards} == {"device"}
    assert unknown.status_code == 404


async def test_a_url_that_is_named_at_the_start_is_served_and_opens_no_other(
    folder, root, tmp_path
):
    memory = fsspec.filesystem("memory")
    for name in ("qv-r4", "down-r1"):
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            memory.pipe_file(f"memory://named/{name}/{file}", (root / name / file).read_bytes())
    flags = ("--adapter", "sql=memory://named/qv-r4/", "--cache-dir", str(tmp_path))

    async with (
        whole_server(
            folder, "--cpu-kernels", "torch", *flags, adapters={"local": root / "qv-r4"}
        ) as server,
        httpx.AsyncClient() as client,
    ):
        url = server.base_url
        answers = [await ask(client, url, name) for name in ("sql", "local", "tiny")]
        card = (await client.get(f"{url}/v1/adapters/sql")).json()
        other = await client.put(
            f"{url}/v1/adapters/other", json={"source": "memory://named/down-r1"}
        )
    memory.rm("memory://named", recursive=True)

    assert answers[0] == answers[1] != answers[2]
    assert (card["source"], card["pinned"]) == ("memory://named/qv-r4", True)
    assert other.status_code == 400
    assert "start it with --adapter-source memory://named/" in other.text


async def test_a_name_that_moves_under_load_never_mixes_versions(folder, root):
    names = ["all-r16", "qv-r4", "up-r12"]
    expected = await references(folder, root, names)

    async with (
        whole_server(folder, "--adapter-root", str(root)) as server,
        httpx.AsyncClient() as client,
    ):
        url = server.base_url
        await client.put(f"{url}/v1/adapters/it", json={"source": str(root / names[0])})
        is_over = False

        async def keep_asking() -> list[str]:
            answers = []
            while not is_over:
                answers.append(await ask(client, url, "it"))
            return answers

        asking = [asyncio.create_task(keep_asking()) for _ in range(6)]
        for cycle in range(30):
            source = str(root / names[cycle % 3])
            put = await client.put(f"{url}/v1/adapters/it", json={"source": source}, timeout=60)
            assert put.status_code == 200
        is_over = True
        answers = [answer for part in await asyncio.gather(*asking) for answer in part]
        last = await ask(client, url, "it")
        server.library.check_integrity()

    assert set(answers) <= set(expected.values())
    assert len(set(answers)) > 1
    assert last == expected[names[29 % 3]]


async def test_adapters_that_do_not_fit_together_take_turns_and_answer_right(folder, root):
    names = ["all-r16", "qv-r4", "down-r1", "up-r12", "ranks"]
    expected = await references(folder, root, names)
    async with whole_server(folder, adapters={name: root / name for name in names}) as server:
        sizes = [v.facts.num_bytes for v in server.library.shelf]
    memory = str(max(sizes) + min(sizes))

    async with (
        whole_server(
            folder,
            "--adapter-root",
            str(root),
            "--adapter-memory",
            memory,
            "--adapter-host-memory",
            memory,
        ) as server,
        httpx.AsyncClient() as client,
    ):
        url = server.base_url
        for _ in range(3):
            for name in names:
                assert await ask(client, url, name) == expected[name]
        evictions = server.library.shelf.num_evictions
        server.library.check_integrity()
        assert server.library.shelf.num_bytes <= int(memory)

    assert evictions > len(names)


async def test_a_broken_adapter_is_refused_and_running_streams_do_not_notice(folder, root):
    expected = await references(folder, root, ["all-r16"])
    body = {
        "model": "all-r16",
        "prompt": PROMPT,
        "max_tokens": 12,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    async with (
        whole_server(folder, "--adapter-root", str(root), "--adapter-failure-memory=0") as server,
        httpx.AsyncClient() as client,
    ):
        url = server.base_url

        async def stream() -> str:
            response = await client.post(f"{url}/v1/completions", json=body, timeout=60)
            lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: {")]
            return "".join(json.loads(line)["choices"][0]["text"] for line in lines)

        streaming = [asyncio.create_task(stream()) for _ in range(4)]
        for _ in range(10):
            broken = await client.post(
                f"{url}/v1/completions", json={"model": "broken", "prompt": "p"}
            )
            assert broken.status_code == 424
        texts = await asyncio.gather(*streaming)

    assert texts == [expected["all-r16"]] * 4
    assert "safetensors" in broken.json()["error"]["message"]


async def test_an_unloaded_adapter_leaves_the_device_when_its_last_stream_has_ended(folder, root):
    async with (
        whole_server(folder, "--adapter-root", str(root)) as server,
        httpx.AsyncClient() as client,
    ):
        url = server.base_url
        running = asyncio.create_task(ask(client, url, "all-r16", num_tokens=40))
        await until(lambda: server.service.stats().num_running == 1)
        deleted = await client.delete(f"{url}/v1/adapters/all-r16")
        assert deleted.status_code == 200
        assert len(await running) > 0
        await until(lambda: not server.service.stats().resident_adapters)
        await until(lambda: server.library.num_leases == 0)

        assert not list(server.library.shelf)
        assert server.service.stats().resident_adapter_bytes == 0
