"""The fingerprint of a base: what it tells apart, and what it does not mind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorry_server.errors import ModelError
from lorry_server.lora.base_fingerprint import base_fingerprint
from tests.support.tiny_model import write_tiny_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "llama")


def halves(folder: Path) -> tuple[str, str]:
    shape, weights = base_fingerprint(folder).split("-")
    return shape, weights


def test_the_same_model_elsewhere_has_the_same_fingerprint(model: Path, tmp_path: Path) -> None:
    assert base_fingerprint(write_tiny_model(tmp_path / "copy")) == base_fingerprint(model)


def test_a_model_that_was_trained_on_keeps_the_first_half(model: Path, tmp_path: Path) -> None:
    other = write_tiny_model(tmp_path / "other", seed=1)

    assert halves(other)[0] == halves(model)[0]
    assert halves(other)[1] != halves(model)[1]


@pytest.mark.parametrize(
    "changes",
    [{"num_hidden_layers": 3}, {"hidden_size": 128}, {"num_key_value_heads": 4}],
)
def test_a_model_of_another_shape_has_another_first_half(
    model: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    other = write_tiny_model(tmp_path / "other", **changes)

    assert halves(other)[0] != halves(model)[0]


def test_settings_that_are_no_architecture_do_not_matter(model: Path) -> None:
    before = base_fingerprint(model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"transformers_version": "9", "x": 1}))

    assert base_fingerprint(model) == before


def test_cutting_the_weights_into_files_does_not_matter(model: Path) -> None:
    before = base_fingerprint(model)
    tensors = load_file(model / "model.safetensors")
    names = sorted(tensors)
    places: dict[str, str] = {}
    for index, part in enumerate((names[::2], names[1::2])):
        file = f"model-{index}.safetensors"
        save_file({name: tensors[name] for name in part}, model / file)
        places |= dict.fromkeys(part, file)
    (model / "model.safetensors").unlink()
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))

    assert base_fingerprint(model) == before


def test_other_numbers_in_one_layer_matter(model: Path) -> None:
    before = halves(model)
    tensors = load_file(model / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = torch.roll(tensors[name], 1)
    save_file(tensors, model / "model.safetensors")

    assert halves(model)[0] == before[0]
    assert halves(model)[1] != before[1]


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot take the fingerprint"):
        base_fingerprint(tmp_path)
