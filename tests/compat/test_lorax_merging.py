"""The unmodified `lorax-client` asks for merged adapters, by every strategy that it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lorry
from tests.support.lorax_family import Call, LoraxFamilySession
from tests.support.tiny_adapters import ATTENTION, write_unlike_adapters
from tests.support.tiny_model import write_tiny_model
from tests.support.whole_server import whole_server

CONFIGS = {
    "sql": {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION},
    "legal": {"r": 4, "lora_alpha": 12, "target_modules": [*ATTENTION, "up_proj"]},
}
RECIPES = {
    "linear": "sql*0.7+legal*0.3",
    "ties": "ties(sql*0.7+legal*0.3,density=0.5)",
    "dare_linear": "dare_linear(sql*0.7+legal*0.3,density=0.5)",
    "dare_ties": "dare_ties(sql*0.7+legal*0.3,density=0.5)",
}


def merging(strategy: str, **more: Any) -> Call:
    merged = {"ids": ["sql", "legal"], "weights": [0.7, 0.3], "density": 0.5}
    arguments = {"prompt": "the dog", "max_new_tokens": 12, "ignore_eos_token": True}
    return "generate", {
        **arguments,
        "merged_adapters": {**merged, "merge_strategy": strategy},
        **more,
    }


async def test_lorax_client_gets_the_composition_that_a_recipe_names(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model")
    adapters = write_unlike_adapters(folder, tmp_path, CONFIGS)
    with LoraxFamilySession("lorax") as session:
        async with (
            whole_server(folder, adapters=adapters) as server,
            lorry.AsyncClient(server.base_url) as client,
        ):
            answers = await session.call(server.base_url, *(merging(name) for name in RECIPES))
            wanted = [
                await client.generate(
                    "the dog", adapter=recipe, max_tokens=12, temperature=0.0, ignore_eos=True
                )
                for recipe in RECIPES.values()
            ]

    tokens = [[token["id"] for token in one["result"]["details"]["tokens"]] for one in answers]
    assert tokens == [list(one.token_ids or ()) for one in wanted]
    assert len({tuple(one) for one in tokens}) == len(RECIPES)


async def test_lorax_client_is_told_what_cannot_be_merged(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model")
    config = {"six": {"r": 6, "lora_alpha": 6, "target_modules": ["q_proj"]}}
    adapters = write_unlike_adapters(folder, tmp_path, {"sql": CONFIGS["sql"], **config})
    unlike = {"ids": ["sql", "six"], "weights": [1, 1], "density": 0.5, "merge_strategy": "ties"}
    nothing_kept = {"ids": ["sql"], "weights": [1], "density": 0, "merge_strategy": "ties"}
    with LoraxFamilySession("lorax") as session:
        async with whole_server(folder, adapters=adapters) as server:
            unlike_ranks, no_density = await session.call(
                server.base_url,
                merging("ties", merged_adapters=unlike),
                merging("ties", merged_adapters=nothing_kept),
            )

    assert unlike_ranks["error"] == "GenerationError"
    assert "unlike ranks (sql 4, six 6)" in unlike_ranks["message"]
    assert no_density["error"] == "ValidationError"
    assert "density is 0.0; it is the fraction of values that is kept" in no_density["message"]
