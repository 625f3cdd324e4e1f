"""What PEFT makes of several adapters: the oracle of compositions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel

from lorry_server.adapters.recipe import Recipe
from tests.support.tiny_adapters import load_base


def peft_composed(
    folder: Path, paths: Mapping[str, Path], recipe: Recipe, combination: str
) -> PeftModel:
    """The model of `folder` with PEFT's weighted adapter of the recipe's parts, as "composed"."""
    # PEFT takes no dots in the names of adapters, and one name once
    names = [f"part{index}" for index in range(len(recipe.parts))]
    first, *others = zip(names, recipe.adapters, strict=True)
    model = PeftModel.from_pretrained(load_base(folder), paths[first[1]], adapter_name=first[0])
    for name, adapter in others:
        model.load_adapter(paths[adapter], adapter_name=name)
    options = {"density": recipe.density, "majority_sign_method": recipe.majority_sign_method}
    model.add_weighted_adapter(
        names,
        [part.weight for part in recipe.parts],
        "composed",
        combination_type=combination,
        **{name: value for name, value in options.items() if value is not None},
    )
    model.set_adapter("composed")
    return model.eval()


@torch.inference_mode()
def greedy(model: PeftModel, prompt: list[int], *, count: int) -> list[int]:
    """The `count` likeliest tokens after the prompt, one after another, without a cache."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[len(prompt) :]
