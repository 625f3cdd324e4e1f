"""Random LoRA adapters in PEFT's format, for a model known by its config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
ALL = ATTENTION + MLP


def write_adapter(
    config: Mapping[str, Any],
    folder: Path,
    rank: int,
    targets: tuple[str, ...],
    *,
    seed: int,
    strength: float = 0.1,
    dtype: type[np.floating[Any]] = np.float32,
) -> Path:
    """Write a folder for a model with this config.json: A and B are random, B of size `strength`."""
    hidden, mlp = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim") or hidden // config["num_attention_heads"]
    query = config["num_attention_heads"] * head_dim
    key = config["num_key_value_heads"] * head_dim
    shapes = {  # inputs, outputs
        "q_proj": (hidden, query),
        "k_proj": (hidden, key),
        "v_proj": (hidden, key),
        "o_proj": (query, hidden),
        "gate_proj": (hidden, mlp),
        "up_proj": (hidden, mlp),
        "down_proj": (mlp, hidden),
    }
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for target in targets:
            num_in, num_out = shapes[target]
            part = "self_attn" if target in ATTENTION else "mlp"
            name = f"base_model.model.model.layers.{layer}.{part}.{target}"
            a_RI = rng.standard_normal((rank, num_in), np.float32) * num_in**-0.5
            b_OR = rng.standard_normal((num_out, rank), np.float32) * strength * rank**-0.5
            tensors[f"{name}.lora_A.weight"] = a_RI.astype(dtype)
            tensors[f"{name}.lora_B.weight"] = b_OR.astype(dtype)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": list(targets),
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder
