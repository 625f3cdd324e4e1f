"""A composed adapter is what PEFT's `add_weighted_adapter` makes of the same parts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lorry_server.adapters.recipe import Recipe, parse_recipe
from lorry_server.errors import AdapterError
from lorry_server.lora.adapter import Adapter, read_adapter
from lorry_server.lora.compose import COMPOSABLE_FEATURES, compose
from tests.support.peft_composed import peft_composed
from tests.support.tiny_adapters import (
    ATTENTION,
    MLP,
    family_of,
    load_base,
    write_unlike_adapters,
)
from tests.support.tiny_model import write_tiny_model

COMPOSABLE = ("head", "embedding", "all-but-layer-0")
WITH_MORE = [name for name in family_of("llama") if name not in COMPOSABLE]
CONFIGS: dict[str, dict[str, Any]] = {
    **family_of("llama"),
    "all-r16": {"r": 16, "lora_alpha": 32, "target_modules": ATTENTION + MLP},
    "qv-r4": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "down-r1": {"r": 1, "lora_alpha": 3, "target_modules": ["down_proj"]},
    "mlp-r7-rslora": {"r": 7, "lora_alpha": 4, "target_modules": MLP, "use_rslora": True},
    "ranks": {
        "r": 3,
        "lora_alpha": 6,
        "target_modules": ATTENTION,
        "rank_pattern": {"q_proj": 9, "layers.1.self_attn.k_proj": 2},
        "alpha_pattern": {"q_proj": 5, "v_proj": 1},
    },
    "head-r6": {"r": 6, "lora_alpha": 6, "target_modules": ["lm_head", "k_proj"]},
    "four-a": {"r": 4, "lora_alpha": 8, "target_modules": ATTENTION},
    "four-b": {"r": 4, "lora_alpha": 12, "target_modules": ["q_proj", "k_proj", "up_proj"]},
    "four-rslora": {"r": 4, "lora_alpha": 3, "target_modules": ATTENTION, "use_rslora": True},
    "embedding-r2": {"r": 2, "lora_alpha": 8, "target_modules": ["embed_tokens", "o_proj"]},
    "huge": {"r": 300, "lora_alpha": 300, "target_modules": ["q_proj"]},
}
TOKENS = torch.tensor([list(range(20, 60))])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture(scope="module")
def paths(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_unlike_adapters(folder, tmp_path_factory.mktemp("adapters"), CONFIGS)


@pytest.fixture(scope="module")
def adapters(paths: dict[str, Path]) -> dict[str, Adapter]:
    return {name: read_adapter(path) for name, path in paths.items()}


def recipe_of(text: str) -> Recipe:
    recipe = parse_recipe(text)
    assert recipe is not None
    return recipe


def composed(text: str, adapters: Mapping[str, Adapter]) -> Adapter:
    recipe = recipe_of(text)
    return compose(recipe, [adapters[name] for name in recipe.adapters])


def logits_with(folder: Path, adapter: Adapter) -> Tensor:
    """The base with the adapter's updates added to its weights."""
    model = load_base(folder)
    with torch.inference_mode():
        for module, weights in adapter.modules.items():
            model.get_submodule(module).weight += weights.b_OR @ weights.a_RI
        for module, weights in adapter.embedding.items():
            model.get_submodule(module).weight += (weights.b_OR @ weights.a_RI).T
        logits: Tensor = model(TOKENS).logits[0]
    return logits


# PEFT lets the result be rank-stabilised where the first part is, which makes it too large: so
# such a part is not the first here.
@pytest.mark.parametrize(
    "text",
    [
        "all-r16*0.7+qv-r4*0.3",
        "all-r16+down-r1*-0.5",
        "qv-r4*1.5+all-r16*-0.25+mlp-r7-rslora*0.8",
        "ranks*0.5+head-r6*2+mlp-r7-rslora*-1",
        "all-r16*0+ranks",
        "four-a*0.5+four-a*0.5",
        "embedding*0.6+four-a+embedding-r2*-0.7",
    ],
)
def test_a_linear_composition_equals_peft(
    folder: Path, paths: dict[str, Path], adapters: dict[str, Adapter], text: str
) -> None:
    recipe = recipe_of(text)
    with torch.inference_mode():
        wanted = peft_composed(folder, paths, recipe, "cat")(TOKENS).logits[0]

    logits = logits_with(folder, composed(text, adapters))

    torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=0)
    with torch.inference_mode():
        base = load_base(folder)(TOKENS).logits[0]
    assert (wanted - base).abs().max() > 0.1  # or the composition would show nothing


@pytest.mark.parametrize("text", ["mlp-r7-rslora*0.5+qv-r4", "qv-r4+mlp-r7-rslora*0.5"])
def test_a_linear_composition_adds_each_parts_own_update(
    adapters: dict[str, Adapter], text: str
) -> None:
    recipe = recipe_of(text)
    sums: dict[str, Tensor] = {}
    for part in recipe.parts:
        for module, weights in adapters[part.adapter].modules.items():
            update = part.weight * (weights.b_OR.double() @ weights.a_RI.double())
            sums[module] = sums.get(module, torch.zeros_like(update)) + update

    modules = composed(text, adapters).modules

    assert list(modules) == sorted(sums)
    for module, update in sums.items():
        ours = modules[module].b_OR.double() @ modules[module].a_RI.double()
        torch.testing.assert_close(ours, update, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "combination"),
    [
        ("ties(four-a*0.7+four-b*0.3,density=0.4)", "ties"),
        ("ties(four-a*0.7+four-b*-0.3,density=0.4,majority_sign_method=frequency)", "ties"),
        ("ties(four-b+four-a+four-rslora*0.5,density=1)", "ties"),
        ("magnitude_prune(four-a*-2+four-b,density=0.5)", "magnitude_prune"),
    ],
)
@pytest.mark.filterwarnings("ignore:The density 1.0")
def test_the_matrices_of_other_methods_equal_pefts(
    folder: Path, paths: dict[str, Path], adapters: dict[str, Adapter], text: str, combination: str
) -> None:
    recipe = recipe_of(text)
    model = peft_composed(folder, paths, recipe, combination).base_model.model

    ours = composed(text, adapters)

    assert ours.rank == 4
    for module, weights in ours.modules.items():
        layer = model.get_submodule(module)
        assert layer.scaling["composed"] == 1.0
        a_RI = layer.lora_A["composed"].weight.detach()
        b_OR = layer.lora_B["composed"].weight.detach()
        torch.testing.assert_close(weights.a_RI, a_RI, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(weights.b_OR, b_OR, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_what_dare_drops_is_a_function_of_the_recipe(
    adapters: dict[str, Adapter], method: str
) -> None:
    def matrices(text: str) -> dict[str, Tensor]:
        modules = composed(text, adapters).modules
        return {name: weights.b_OR @ weights.a_RI for name, weights in modules.items()}

    once = matrices(f"{method}(four-a+four-b,density=0.5)")
    torch.manual_seed(99)  # somebody else's draws
    again = matrices(f"{method}(four-a+four-b,density=0.5)")
    other = matrices(f"{method}(four-a+four-b,density=0.5,seed=1)")

    assert all(torch.equal(once[module], again[module]) for module in once)
    assert not any(torch.equal(once[module], other[module]) for module in once)


def test_dare_with_density_one_is_the_weighted_sum_of_the_halves(
    adapters: dict[str, Adapter],
) -> None:
    ours = composed("dare_linear(four-a+four-b,density=1)", adapters)

    one, other = (adapters[name].modules for name in ("four-a", "four-b"))
    module = "model.layers.0.self_attn.q_proj"
    wanted = 2**0.5 * one[module].a_RI + 3**0.5 * other[module].a_RI
    torch.testing.assert_close(ours.modules[module].a_RI, wanted)


def test_what_it_says_of_itself(adapters: dict[str, Adapter]) -> None:
    text = "all-r16*0.5+qv-r4+mlp-r7-rslora"

    ours = composed(text, adapters)

    parts = [adapters[name].digest for name in ("all-r16", "qv-r4", "mlp-r7-rslora")]
    assert ours.digest == recipe_of(text).digest(parts)
    assert str(ours.path) == text
    assert ours.target_modules == tuple(sorted(ATTENTION + MLP))
    assert ours.rank == 23
    assert ours.modules["model.layers.0.self_attn.q_proj"].rank == 20
    assert ours.modules["model.layers.0.self_attn.o_proj"].rank == 16
    assert ours.alpha == ours.rank
    assert ours.num_bytes == sum(
        4 * (weights.a_RI.numel() + weights.b_OR.numel()) for weights in ours.modules.values()
    )


def test_a_composition_can_be_a_part_again(adapters: dict[str, Adapter]) -> None:
    inner = composed("four-a*0.5+four-b", adapters)
    outer = compose(recipe_of("inner*2+qv-r4"), [inner, adapters["qv-r4"]])
    flat = composed("four-a+four-b*2+qv-r4", adapters)

    for module, weights in flat.modules.items():
        ours = outer.modules[module]
        torch.testing.assert_close(ours.b_OR @ ours.a_RI, weights.b_OR @ weights.a_RI)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("huge+huge", "add up to 600; at most 512 is supported"),
        ("huge+huge", "'model.layers.0.self_attn.q_proj' (huge 300, huge 300)"),
        (
            "ties(all-r16+qv-r4,density=0.5)",
            "unlike ranks (all-r16 16, qv-r4 4), and ties needs equal ones; linear does not",
        ),
        ("four-a*1e300+four-b", "is beyond float32; use smaller weights"),
        ("ties(four-a*1e300+four-b,density=0.5)", "is beyond float32; use smaller weights"),
    ],
)
def test_what_cannot_be_composed_is_refused_with_the_module(
    adapters: dict[str, Adapter], text: str, sentence: str
) -> None:
    with pytest.raises(AdapterError) as caught:
        composed(text, adapters)

    assert sentence in str(caught.value)
    assert f"recipe {str(recipe_of(text))!r}: " in str(caught.value)


def test_parts_of_different_models_are_refused(
    adapters: dict[str, Adapter], tmp_path: Path
) -> None:
    wider = write_tiny_model(tmp_path / "wide", hidden_size=128)
    paths = write_unlike_adapters(wider, tmp_path, {"wide": CONFIGS["four-a"]})

    with pytest.raises(AdapterError, match=r"is 32 x 64 in 'four-a' and 64 x 128 in 'wide'"):
        composed("four-a+wide", {**adapters, "wide": read_adapter(paths["wide"])})


@pytest.mark.parametrize("method", ["linear", "ties"])
@pytest.mark.parametrize("name", WITH_MORE)
def test_a_part_that_is_more_than_low_rank_updates_is_refused_by_name(
    adapters: dict[str, Adapter], name: str, method: str
) -> None:
    text = f"{name}+four-a" if method == "linear" else f"ties({name}+four-a,density=1)"

    with pytest.raises(AdapterError) as caught:
        composed(text, adapters)

    more = [feature for feature in adapters[name].features if feature not in COMPOSABLE_FEATURES]
    what = f"has {', '.join(more)}, which cannot be combined" if more else "is not an update"
    assert f"adapter {name!r} " in str(caught.value)
    assert what in str(caught.value)


def test_a_kind_of_adapter_that_is_not_known_to_be_low_rank_is_refused(
    adapters: dict[str, Adapter],
) -> None:
    odd = dataclasses.replace(adapters["four-b"], features=("rslora", "something_new"))

    with pytest.raises(AdapterError, match="adapter 'odd' has something_new, which cannot be"):
        composed("four-a+odd", {**adapters, "odd": odd})
