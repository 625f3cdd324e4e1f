"""A PiSSA or OLoRA adapter says the same as it is and converted to plain LoRA by PEFT."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor

from lorry_server.lora.adapter import read_adapter
from lorry_server.lora.matching import AdapterMatcher
from lorry_server.model.load import load_model
from tests.support.tiny_adapters import load_base, randomize
from tests.support.tiny_engine import CPU
from tests.support.tiny_model import write_tiny_model


def write_both_ways(base: Path, folder: Path, *, initialization: str) -> tuple[Path, Path]:
    """One trained adapter as it is, and converted with PEFT's way of doing so."""
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        lora_alpha=12,
        target_modules=["q_proj", "down_proj"],
        init_lora_weights=initialization,
    )
    model = get_peft_model(load_base(base), config)
    model.peft_config["default"].init_lora_weights = True  # as PEFT asks for before the first save
    model.save_pretrained(folder / "initial")
    randomize(model)
    model.peft_config["default"].init_lora_weights = initialization
    model.save_pretrained(folder / "as-it-is")
    model.save_pretrained(
        folder / "converted", path_initial_model_for_weight_conversion=str(folder / "initial")
    )
    return folder / "as-it-is", folder / "converted"


def updates(base: Path, adapter: Path) -> dict[str, Tensor]:
    """What is added to each weight of the base."""
    model = load_model(base, dtype=torch.float32, device=CPU, quantization="none")
    matched = AdapterMatcher(model.linears(), base=model.base_weights).match(read_adapter(adapter))
    return {
        one.part.name: one.weights.b_OR @ one.weights.a_RI
        for slices in matched.by_linear.values()
        for one in slices
        if one.weights is not None
    }


@pytest.mark.parametrize("initialization", ["pissa", "olora"])
def test_an_adapter_and_its_conversion_are_the_same_update(
    tmp_path: Path, initialization: str
) -> None:
    base = write_tiny_model(tmp_path / "model")
    as_it_is, converted = write_both_ways(base, tmp_path, initialization=initialization)

    first, second = updates(base, as_it_is), updates(base, converted)

    assert read_adapter(as_it_is).initialization == initialization
    assert read_adapter(converted).initialization is None
    assert len(first) == 4
    for name, update in first.items():
        assert update.abs().max() > 0.1
        torch.testing.assert_close(update, second[name], atol=1e-4, rtol=0)
