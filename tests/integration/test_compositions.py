"""Compositions through the whole server, by every route, in one batch with everything else."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

import lorry
from lorry_server.adapters.recipe import parse_recipe
from tests.support.peft_composed import greedy, peft_composed
from tests.support.tiny_adapters import ATTENTION, MLP, write_unlike_adapters
from tests.support.tiny_model import write_tiny_model
from tests.support.whole_server import WholeServer, whole_server

CONFIGS = {
    "sql": {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION},
    "legal": {"r": 4, "lora_alpha": 12, "target_modules": [*ATTENTION, "up_proj"]},
    "style": {"r": 7, "lora_alpha": 7, "target_modules": MLP},
}
RECIPES = {
    "sql*0.7+legal*0.3": "cat",
    "sql*1.5+style*-0.5": "cat",
    "ties(sql*0.7+legal*0.3,density=0.5)": "ties",
}
PROMPT = list(range(20, 60))
NUM_TOKENS = 12
COMMAND = "import sys; from lorry.cli import main; sys.exit(main())"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_unlike_adapters(folder, tmp_path_factory.mktemp("adapters"), CONFIGS)


@pytest.fixture
async def server(folder: Path, adapters: dict[str, Path]) -> AsyncIterator[WholeServer]:
    root = next(iter(adapters.values())).parent
    async with whole_server(folder, f"--adapter-root={root}", adapters=adapters) as running:
        yield running


async def ask(client: lorry.AsyncClient, adapter: str | None) -> list[int]:
    answer = await client.generate(
        PROMPT, adapter=adapter, max_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True
    )
    return list(answer.token_ids or ())


async def test_compositions_in_a_mixed_batch_say_what_peft_says(
    server: WholeServer, folder: Path, adapters: dict[str, Path]
) -> None:
    wanted = {}
    for text, combination in RECIPES.items():
        recipe = parse_recipe(text)
        assert recipe is not None
        model = peft_composed(folder, adapters, recipe, combination)
        wanted[text] = greedy(model, PROMPT, count=NUM_TOKENS)
    names = [*RECIPES, *CONFIGS, None]

    async with lorry.AsyncClient(server.base_url) as client:
        together = await asyncio.gather(*(ask(client, name) for name in names * 2))

    assert together[: len(names)] == together[len(names) :]
    assert dict(zip(RECIPES, together, strict=False)) == wanted
    assert len({tuple(tokens) for tokens in together}) == len(names)


async def test_the_object_of_lorax_is_the_same_composition(server: WholeServer) -> None:
    parameters = {
        "max_new_tokens": NUM_TOKENS,
        "ignore_eos_token": True,
        "details": True,
        "merged_adapters": {
            "ids": ["sql", "legal"],
            "weights": [0.7, 0.3],
            "merge_strategy": "ties",
            "density": 0.5,
            "majority_sign_method": "total",
        },
    }
    async with lorry.AsyncClient(server.base_url) as client, aiohttp.ClientSession() as http:
        text = (await client.generate("abc", max_tokens=1)).text  # the tokenizer is the same
        body = {"inputs": "abc", "parameters": parameters}
        response = await http.post(f"{server.base_url}/generate", json=body)
        lorax = await response.json()
        ours = await client.generate(
            "abc",
            adapter="ties(sql*0.7+legal*0.3,density=0.5)",
            max_tokens=NUM_TOKENS,
            temperature=0.0,
            ignore_eos=True,
        )

    assert text
    assert response.status == 200, lorax
    assert response.headers["x-adapter-id"] == (
        "ties(sql*0.7+legal*0.3,density=0.5,majority_sign_method=total)"
    )
    assert [token["id"] for token in lorax["details"]["tokens"]] == list(ours.token_ids or ())


async def test_a_name_that_moves_moves_its_compositions(
    server: WholeServer, adapters: dict[str, Path]
) -> None:
    async with lorry.AsyncClient(server.base_url) as client:
        before = await client.adapters.get("sql")
        old = await ask(client, "sql*0.7+legal*0.3")
        await client.adapters.replace("sql", str(adapters["style"]))
        new = await ask(client, "sql*0.7+legal*0.3")
        same = await ask(client, "style*0.7+legal*0.3")
        await client.adapters.replace("sql", str(adapters["sql"]))
        pinned = await ask(client, f"sql@{before.digest[:8]}*0.7+legal*0.3")

    assert new == same != old
    assert pinned == old


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ("sql*much+legal", "the weight 'much' of adapter 'sql' is not a number"),
        ("sql+nobody", "nobody"),
        ("ties(sql+style,density=0.5)+legal", "does not end with ')'"),
    ],
)
async def test_a_bad_recipe_is_refused_with_what_is_wrong(
    server: WholeServer, recipe: str, sentence: str
) -> None:
    async with lorry.AsyncClient(server.base_url) as client:
        with pytest.raises(lorry.AdapterNotFound) as caught:
            await ask(client, recipe)

    assert sentence in str(caught.value)


async def test_parts_that_cannot_be_merged_are_refused_with_the_module(
    server: WholeServer, folder: Path, tmp_path: Path
) -> None:
    config = {"six": {"r": 6, "lora_alpha": 6, "target_modules": ["q_proj"]}}
    async with (
        whole_server(
            folder,
            adapters={
                **write_unlike_adapters(folder, tmp_path, config),
                **write_unlike_adapters(folder, tmp_path, {"sql": CONFIGS["sql"]}),
            },
        ) as other,
        lorry.AsyncClient(other.base_url) as client,
    ):
        with pytest.raises(lorry.AdapterInvalid, match=r"unlike ranks \(sql 4, six 6\)"):
            await ask(client, "ties(sql+six,density=0.5)")
        assert await ask(client, "sql") == await ask(client, "sql*1")


async def test_the_client_and_the_command_manage_a_real_server(
    server: WholeServer, adapters: dict[str, Path]
) -> None:
    async def run(*arguments: str) -> tuple[int, str]:
        command = ["-c", COMMAND, "adapters", *arguments, "--url", server.base_url]
        process = await asyncio.create_subprocess_exec(
            sys.executable, *command, stdout=PIPE, stderr=STDOUT
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()

    source = str(adapters["style"])
    async with lorry.AsyncClient(server.base_url) as client:
        card = await client.adapters.load("team/new", source)
        assert (card.state, card.rank, card.source) == ("ready", 7, source)
        assert (await client.adapters.wait_ready("team/new")).digest == card.digest
        with pytest.raises(lorry.AdapterExists):
            await client.adapters.load("team/new", source)
        assert (await client.adapters.pin("team/new")).pinned
        assert not (await client.adapters.unpin("team/new")).pinned
        assert await ask(client, "team/new") == await ask(client, "style")
        code, shown = await run("list", "--json")
        assert code == 0
        assert [one["id"] for one in json.loads(shown)] == [*CONFIGS, "team/new"]
        assert (await run("unload", "team/new"))[0] == 0
        with pytest.raises(lorry.AdapterNotFound):
            await client.adapters.get("team/new")
        broken = shutil.copytree(adapters["sql"], adapters["sql"].with_name("broken"))
        (broken / "adapter_model.safetensors").write_bytes(b"cut off")
        with pytest.raises(lorry.AdapterInvalid, match="safetensors"):
            await client.adapters.load("broken", str(broken))

    code, shown = await run("load", "gone", str(adapters["sql"].parent / "gone"))
    assert code == 1
    assert shown.count("\n") == 1
    assert "gone" in shown
