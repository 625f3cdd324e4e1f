"""The committed adapters are small, whole PEFT folders that fit the shapes of the default model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

ADAPTERS = Path(__file__).parents[2] / "examples" / "adapters"
NAMES = ["pirate", "pricing", "supply-chain"]
NUM_LAYERS = 30


@pytest.fixture(scope="module")
def random_base() -> LlamaForCausalLM:
    """The default model's shapes with random weights; no adapter touches the vocabulary."""
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


@pytest.mark.parametrize("name", NAMES)
def test_folder_holds_config_and_weights_and_nothing_else(name: str) -> None:
    files = {path.name: path.stat().st_size for path in (ADAPTERS / name).iterdir()}

    assert set(files) == {"adapter_config.json", "adapter_model.safetensors"}
    assert sum(files.values()) <= 2_000_000


@pytest.mark.parametrize("name", NAMES)
def test_config_names_the_public_base_model(name: str) -> None:
    config = json.loads((ADAPTERS / name / "adapter_config.json").read_text("utf-8"))

    assert config["peft_type"] == "LORA"
    assert config["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_adapters_differ_in_rank_scale_and_targets() -> None:
    configs = [json.loads((ADAPTERS / name / "adapter_config.json").read_text()) for name in NAMES]

    assert len({config["r"] for config in configs}) == 3
    assert len({config["lora_alpha"] / config["r"] for config in configs}) > 1
    assert len({tuple(sorted(config["target_modules"])) for config in configs}) == 3


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_finite_and_trained_for_every_layer_and_target(name: str) -> None:
    config = json.loads((ADAPTERS / name / "adapter_config.json").read_text("utf-8"))
    tensors = load_file(ADAPTERS / name / "adapter_model.safetensors")

    assert len(tensors) == 2 * NUM_LAYERS * len(config["target_modules"])
    for tensor_name, tensor in tensors.items():
        assert tensor.dtype == torch.bfloat16
        assert torch.isfinite(tensor).all(), tensor_name
        assert tensor.abs().max() > 0, tensor_name


@pytest.mark.parametrize("name", NAMES)
def test_peft_loads_every_tensor_and_the_logits_change(
    name: str, random_base: LlamaForCausalLM
) -> None:
    token_ids = torch.tensor([[1, 2, 3, 4]])
    stored = load_file(ADAPTERS / name / "adapter_model.safetensors")

    model = PeftModel.from_pretrained(random_base, ADAPTERS / name)
    loaded = get_peft_model_state_dict(model)
    with torch.inference_mode():
        adapted = model(token_ids).logits
        with model.disable_adapter():
            plain = model(token_ids).logits
    model.unload()

    assert set(loaded) == set(stored)
    assert all(torch.equal(loaded[key].to(torch.bfloat16), stored[key]) for key in stored)
    assert not torch.equal(adapted, plain)
