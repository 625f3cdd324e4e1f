"""Reading a PEFT folder: what is taken, and every refusal with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorry_server.errors import AdapterError
from lorry_server.lora.adapter import read_adapter
from lorry_server.lora.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from lorry_server.lora.pool import AdapterPool, PreparedUpdates
from tests.support.tiny_adapters import write_adapter
from tests.support.tiny_engine import CPU, make_tiny_engine
from tests.support.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    return write_adapter(
        base, tmp_path / "adapter", seed=1, r=4, lora_alpha=8, target_modules=["q_proj"]
    )


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / CONFIG_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / WEIGHTS_FILE)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS_FILE)


def test_scaling_is_folded_into_b(folder: Path) -> None:
    adapter = read_adapter(folder)

    stored = load_file(folder / WEIGHTS_FILE)
    module = "model.layers.0.self_attn.q_proj"
    b_OR = stored[f"base_model.model.{module}.lora_B.weight"]
    torch.testing.assert_close(adapter.modules[module].b_OR, b_OR * 2)
    assert (adapter.rank, adapter.alpha) == (4, 8.0)


def test_the_digest_names_the_content_and_not_the_place(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        (copy / name).write_bytes((folder / name).read_bytes())

    assert read_adapter(copy).digest == read_adapter(folder).digest
    edit_config(copy, lora_alpha=9)
    assert read_adapter(copy).digest != read_adapter(folder).digest


def test_the_contract_is_part_of_the_digest(folder: Path) -> None:
    alone = read_adapter(folder).digest
    (folder / "chat_template.jinja").write_text("x")
    assert read_adapter(folder).digest == alone  # nobody reads it

    (folder / "lorry.json").write_text('{"max_tokens": 8}')
    first = read_adapter(folder).digest
    (folder / "lorry.json").write_text('{"max_tokens": 9}')
    second = read_adapter(folder).digest
    (folder / "chat_template.jinja").write_text("y")

    assert len({alone, first, second, read_adapter(folder).digest}) == 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type='IA3'"),
        ({"use_qalora": True}, "use_qalora=True: not supported"),
        ({"use_bdlora": {"nblocks": 2}}, "use_bdlora"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"target_parameters": ["experts.up"]}, "target_parameters"),
        ({"arrow_config": {"top_k": 3}}, "arrow_config"),
        ({"kasa_config": {"beta": 1}}, "kasa_config"),
        ({"layer_replication": [[0, 1], [0, 2]]}, "layer_replication"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out=True"),
        ({"bias": "some"}, "bias='some'"),
        ({"use_dora": True, "lora_bias": True}, "lora_bias=True: PEFT has none"),
        ({"init_lora_weights": "loftq"}, "quantized in its own way"),
        ({"lora_alpha": "8"}, "lora_alpha"),
        ({"lora_alpha": 10**400}, "lora_alpha"),
        ({"r": "4"}, "r='4': it must be a positive integer"),
        ({"modules_to_save": "lm_head"}, "must be a list of module names"),
        ({"trainable_token_indices": {"embed_tokens": [1, 1]}}, "there twice"),
        ({"trainable_token_indices": [-1]}, "negative"),
        ({"trainable_token_indices": ["a"]}, "must be a list of token ids"),
        ({"alpha_pattern": {"(a+)+$": 2}}, "not a plain module name"),
        ({"rank_pattern": {"q_proj": "x"}}, "must map to a number"),
    ],
)
def test_an_unsupported_option_is_refused_by_name(
    folder: Path, changes: dict[str, Any], words: str
) -> None:
    edit_config(folder, **changes)

    with pytest.raises(AdapterError, match=words.replace("(", "\\(").replace("+", "\\+")):
        read_adapter(folder)


@pytest.mark.parametrize("init", ["pissa_niter_16", "corda", "lora_ga"])
def test_an_initialization_that_cannot_be_computed_is_refused_with_the_line_that_converts(
    folder: Path, init: str
) -> None:
    edit_config(folder, init_lora_weights=init)

    with pytest.raises(AdapterError, match=f"'{init}'.*path_initial_model_for_weight_conversion="):
        read_adapter(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"use_dora": True}, "lacks its magnitude, with use_dora=True"),
        ({"lora_bias": True}, "lacks its bias, with lora_bias=True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save names 'lm_head', which is not saved"),
        ({"trainable_token_indices": [1]}, "has trainable_token_indices, and their rows are not"),
        ({"r": 8}, "has rank 4; the configuration gives it 8"),
        ({"rank_pattern": {"q_proj": 5}}, "has rank 4; the configuration gives it 5"),
    ],
)
def test_what_the_configuration_promises_and_the_file_does_not_hold_is_named(
    folder: Path, changes: dict[str, Any], words: str
) -> None:
    edit_config(folder, **changes)

    with pytest.raises(AdapterError, match=words):
        read_adapter(folder)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("layers.0.self_attn.q_proj.lora_magnitude_vector", (64,), "has a magnitude"),
        ("layers.0.self_attn.q_proj.lora_B.bias", (64,), "has a bias"),
        ("layers.0.self_attn.q_proj.lora_embedding_A", (4, 64), "only one of lora_embedding_A"),
        ("embed_tokens.token_adapter.trainable_tokens_delta", (2, 64), "indices names 0"),
        ("layers.0.self_attn.k_proj.weight", (32, 64), "not a LoRA A or B matrix"),
        ("layers.0.self_attn.k_proj.original_module.bias", (32,), "not a LoRA A or B matrix"),
        ("layers.0.self_attn.k_proj.base_layer.weight", (32, 64), "not a LoRA A or B matrix"),
        ("layers.0.self_attn.k_proj.lora_C.weight", (4, 64), "not a LoRA A or B matrix"),
    ],
)
def test_a_tensor_that_the_configuration_does_not_speak_of_is_refused(
    folder: Path, name: str, shape: tuple[int, ...], words: str
) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"base_model.model.model.{name}"] = torch.zeros(shape)

    edit_tensors(folder, add)

    with pytest.raises(AdapterError, match=words):
        read_adapter(folder)


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match=CONFIG_FILE):
        read_adapter(tmp_path)


def test_a_pickle_is_refused_by_name(folder: Path) -> None:
    (folder / WEIGHTS_FILE).rename(folder / "adapter_model.bin")

    with pytest.raises(AdapterError, match=r"adapter_model\.bin.*pickle"):
        read_adapter(folder)


def test_a_truncated_file_is_refused_at_every_length(folder: Path) -> None:
    file = folder / WEIGHTS_FILE
    whole = file.read_bytes()
    for part in range(16):
        file.write_bytes(whole[: len(whole) * part // 16])
        with pytest.raises(AdapterError, match="not a valid safetensors file"):
            read_adapter(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused(folder: Path, value: float) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        next(iter(tensors.values()))[0, 0] = value

    edit_tensors(folder, spoil)

    with pytest.raises(AdapterError, match="NaN or infinity"):
        read_adapter(folder)


def test_unequal_ranks_of_a_pair_are_refused(folder: Path) -> None:
    def shorten(tensors: dict[str, torch.Tensor]) -> None:
        name = next(name for name in tensors if "lora_A" in name)
        tensors[name] = tensors[name][:3].clone()

    edit_tensors(folder, shorten)

    with pytest.raises(AdapterError, match="rank 3 in lora_A and 4 in lora_B"):
        read_adapter(folder)


def test_a_lonely_half_is_refused(folder: Path) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[next(iter(tensors))]

    edit_tensors(folder, drop)

    with pytest.raises(AdapterError, match="only one of lora_A, lora_B"):
        read_adapter(folder)


@pytest.mark.parametrize("name", ["lm_head.base_layer.weight", "lm_head.weight"])
def test_a_copy_of_the_base_changes_nothing(base: Path, folder: Path, name: str) -> None:
    pool = pool_of(base)
    before = pool.prepare(read_adapter(folder)).num_bytes

    def add(tensors: dict[str, torch.Tensor]) -> None:
        copy = load_file(base / "model.safetensors")["lm_head.weight"]
        tensors[f"base_model.model.{name}"] = copy.double()

    edit_tensors(folder, add)

    assert pool.prepare(read_adapter(folder)).num_bytes == before


def test_a_copy_of_a_base_with_another_vocabulary_is_refused(base: Path, folder: Path) -> None:
    def add(tensors: dict[str, torch.Tensor]) -> None:
        tensors["base_model.model.lm_head.base_layer.weight"] = torch.zeros(2, 64)

    edit_tensors(folder, add)

    with pytest.raises(AdapterError, match=r"'lm_head\.weight' has shape \(2, 64\), the model's"):
        pool_of(base).prepare(read_adapter(folder))


def test_an_adapter_for_another_model_is_refused(base: Path, folder: Path) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.replace("q_proj", "query")] = tensors.pop(name)

    edit_tensors(folder, rename)
    pool = pool_of(base)

    with pytest.raises(AdapterError, match=r"none of its 2 modules.*'model\.layers\.0.*query'"):
        pool.prepare(read_adapter(folder))


def test_an_adapter_of_another_width_is_refused(tmp_path: Path, folder: Path) -> None:
    wide = write_tiny_model(tmp_path / "wide", hidden_size=128)

    with pytest.raises(AdapterError, match="is for a layer of shape 64 x 64"):
        pool_of(wide).prepare(read_adapter(folder))


def test_modules_without_a_layer_are_named(base: Path, folder: Path) -> None:
    def add_layer(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.replace("layers.1", "layers.9")] = tensors[name].clone()

    edit_tensors(folder, add_layer)
    prepared = pool_of(base).prepare(read_adapter(folder))

    assert isinstance(prepared.contents, PreparedUpdates)
    assert [one.part.name for of in prepared.contents.by_linear.values() for one in of] == [
        f"model.layers.{layer}.self_attn.q_proj" for layer in (0, 1)
    ]
    assert prepared.unmatched == ("model.layers.9.self_attn.q_proj",)


def pool_of(base: Path) -> AdapterPool:
    model = make_tiny_engine(base).model
    return AdapterPool(
        model.linears(),
        dtype=torch.float32,
        device=CPU,
        embedding=model.embedding,
        base=model.base_weights,
    )
