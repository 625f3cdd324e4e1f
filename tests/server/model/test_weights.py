from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorry_server.errors import ModelError
from lorry_server.model.causal_model import CausalModel
from lorry_server.model.load import load_model
from tests.support.simple_attention import SimpleAttention
from tests.support.tiny_model import write_tiny_model

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def load(folder: Path, *, quantization: str = "none") -> CausalModel:
    return load_model(
        folder, dtype=torch.float32, device=torch.device("cpu"), quantization=quantization
    )


def logits(model: CausalModel) -> torch.Tensor:
    ids_T = torch.arange(5, 12)
    return model.compute_logits(model.forward(ids_T, torch.arange(7), SimpleAttention()))


def write_shards(folder: Path) -> dict[str, str]:
    """Split the folder's weights into two files and an index; returns its weight map."""
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"model-{number}.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    (folder / WEIGHTS).unlink()
    return weight_map


def test_shards_give_the_model_of_a_single_file(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    expected_TV = logits(load(folder))

    write_shards(folder)

    assert torch.equal(logits(load(folder)), expected_TV)


def test_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    write_shards(folder)
    (folder / "model-1.safetensors").unlink()

    with pytest.raises(ModelError, match=r"model-1\.safetensors is missing"):
        load(folder)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "model.bin", ""])
def test_index_that_names_other_files_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_tiny_model(tmp_path)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))

    with pytest.raises(ModelError, match=INDEX.replace(".", r"\.")):
        load(folder)


def test_missing_and_surplus_tensors_are_named(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    tensors = load_file(folder / WEIGHTS)
    projection = tensors.pop("model.layers.1.self_attn.k_proj.weight")
    save_file(tensors, folder / WEIGHTS)

    with pytest.raises(ModelError, match=r"misses the tensors model.layers.1.self_attn.k_proj"):
        load(folder)

    tensors["model.layers.1.self_attn.k_proj.weight"] = projection
    tensors["model.layers.1.self_attn.sinks"] = torch.zeros(4)
    save_file(tensors, folder / WEIGHTS)

    with pytest.raises(ModelError, match=r"does not know: model.layers.1.self_attn.sinks"):
        load(folder)


def test_wrong_shape_is_named_with_the_right_one(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    tensors = load_file(folder / WEIGHTS)
    tensors["model.norm.weight"] = torch.zeros(63)
    save_file(tensors, folder / WEIGHTS)

    with pytest.raises(ModelError, match=r"model.norm.weight has shape \[63\].*calls for \[64\]"):
        load(folder)


def test_tensor_that_is_not_of_floats_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    tensors = load_file(folder / WEIGHTS)
    tensors["model.norm.weight"] = torch.zeros(64, dtype=torch.int8)
    save_file(tensors, folder / WEIGHTS)

    with pytest.raises(ModelError, match=r"model.norm.weight has type I8"):
        load(folder)


@pytest.mark.parametrize("kept_bytes", [0, 5, 100])
def test_damaged_file_is_named(tmp_path: Path, kept_bytes: int) -> None:
    folder = write_tiny_model(tmp_path)
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:kept_bytes])

    with pytest.raises(ModelError, match=r"model\.safetensors is damaged or not a safetensors"):
        load(folder)


def test_header_that_promises_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    header = json.dumps({"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}})
    content = len(header).to_bytes(8, "little") + header.encode()
    (folder / WEIGHTS).write_bytes(content)

    with pytest.raises(ModelError, match="damaged"):
        load(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_refused_by_name(tmp_path: Path, name: str) -> None:
    folder = write_tiny_model(tmp_path)
    (folder / WEIGHTS).rename(folder / name)

    with pytest.raises(ModelError, match=rf"pickles \({name}\)"):
        load(folder)


def test_folder_without_weights_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    (folder / WEIGHTS).unlink()

    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        load(folder)


def test_inverse_frequencies_of_old_checkpoints_are_not_surplus(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    tensors = load_file(folder / WEIGHTS)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    save_file(tensors, folder / WEIGHTS)

    assert load(folder).num_layers == 2


def test_tied_head_may_be_in_the_checkpoint_too(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, tie_word_embeddings=True)
    expected_TV = logits(load(folder))
    tensors = load_file(folder / WEIGHTS)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / WEIGHTS)

    assert torch.equal(logits(load(folder)), expected_TV)


@pytest.mark.parametrize("tied", [False, True])
def test_int8_model_is_near_the_model_it_was_made_from(tmp_path: Path, tied: bool) -> None:
    folder = write_tiny_model(tmp_path, tie_word_embeddings=tied)
    exact_TV = logits(load(folder))

    error_TV = logits(load(folder, quantization="int8")) - exact_TV

    assert error_TV.norm() / exact_TV.norm() < 0.05


def test_checkpoint_in_bfloat16_loads_in_the_dtype_asked_for(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS)

    model = load_model(
        folder, dtype=torch.bfloat16, device=torch.device("cpu"), quantization="none"
    )

    assert (
        model.forward(torch.arange(3), torch.arange(3), SimpleAttention()).dtype is torch.bfloat16
    )
    assert logits(model).dtype is torch.float32
