"""PEFT adapters of any shape for a tiny model, made and saved by PEFT itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]

# Unlike ranks, alphas, targets and options: what has to work side by side in one batch.
UNLIKE: dict[str, dict[str, Any]] = {
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
    "one-layer": {
        "r": 5,
        "lora_alpha": 10,
        "target_modules": ["o_proj", "gate_proj"],
        "layers_to_transform": [1],
    },
    "head-r6": {"r": 6, "lora_alpha": 6, "target_modules": ["lm_head", "k_proj"]},
    "up-r12": {"r": 12, "lora_alpha": 24, "target_modules": ["up_proj"]},
}


def load_base(folder: Path) -> PreTrainedModel:
    """The transformers model of a folder, float32 and eager."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def write_adapter(base_folder: Path, folder: Path, *, seed: int, **config: Any) -> Path:
    """Save a random adapter whose update is as large as the weights it changes."""
    torch.manual_seed(seed)
    model = get_peft_model(load_base(base_folder), LoraConfig(task_type="CAUSAL_LM", **config))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3 * parameter.shape[1] ** -0.5)
    # PEFT would add a copy of the head to an adapter that targets it.
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def write_unlike_adapters(
    base_folder: Path, folder: Path, configs: Mapping[str, Mapping[str, Any]] = UNLIKE
) -> dict[str, Path]:
    """An adapter of each configuration, by name."""
    return {
        name: write_adapter(base_folder, folder / name, seed=index, **config)
        for index, (name, config) in enumerate(configs.items())
    }
