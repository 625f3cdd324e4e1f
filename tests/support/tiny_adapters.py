"""PEFT adapters of any shape for a tiny model, made and saved by PEFT itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
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


# One of each kind that PEFT's LoRA has; the tokens are those that prompts have.
TOKENS = [21, 30, 45, 47, 200]
FAMILY: dict[str, dict[str, Any]] = {
    "dora": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "use_dora": True},
    "dora-rslora": {
        "r": 6,
        "lora_alpha": 3,
        "target_modules": ["q_proj", "down_proj"],
        "use_dora": True,
        "use_rslora": True,
        "rank_pattern": {"layers.0.mlp.down_proj": 2},
        "alpha_pattern": {"q_proj": 5},
    },
    "lora-bias": {"r": 3, "lora_alpha": 6, "target_modules": MLP, "lora_bias": True},
    "bias-all": {"r": 2, "lora_alpha": 4, "target_modules": ["v_proj", "up_proj"], "bias": "all"},
    "bias-lora-only": {"r": 2, "lora_alpha": 4, "target_modules": ATTENTION, "bias": "lora_only"},
    "dora-bias": {
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "k_proj"],
        "use_dora": True,
        "bias": "all",
    },
    "head": {"r": 6, "lora_alpha": 6, "target_modules": ["lm_head", "k_proj"]},
    "head-dora": {"r": 3, "lora_alpha": 6, "target_modules": ["lm_head"], "use_dora": True},
    "head-saved": {
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "modules_to_save": ["lm_head"],
    },
    "embedding": {"r": 4, "lora_alpha": 8, "target_modules": ["embed_tokens", "v_proj"]},
    "embedding-dora": {
        "r": 3,
        "lora_alpha": 6,
        "target_modules": ["embed_tokens", "o_proj"],
        "use_dora": True,
    },
    "embedding-copied": {
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["embed_tokens", "lm_head"],
        "save_embedding_layers": True,
    },
    "embedding-saved": {
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens"],
    },
    "both-saved": {
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens", "lm_head"],
    },
    "linear-saved": {
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "modules_to_save": ["o_proj"],
    },
    "norms-saved": {
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "modules_to_save": ["norm"],
    },
    "tokens": {
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "trainable_token_indices": TOKENS,
    },
    "tokens-and-head": {
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "lm_head"],
        "trainable_token_indices": TOKENS,
    },
    "tokens-of-both": {
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "trainable_token_indices": {"embed_tokens": TOKENS, "lm_head": [5, 21, 99]},
    },
    "tokens-of-the-head": {
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "trainable_token_indices": {"lm_head": [7, 100, 101]},
    },
    "all-but-layer-0": {
        "r": 3,
        "lora_alpha": 6,
        "target_modules": "all-linear",
        "exclude_modules": r".*layers\.0\..*",
    },
    "pissa": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "down_proj"],
        "init_lora_weights": "pissa",
    },
    "olora": {
        "r": 3,
        "lora_alpha": 6,
        "target_modules": ["k_proj", "gate_proj"],
        "init_lora_weights": "olora",
    },
}

TIED = ("gemma2", "gemma3", "smollm3")
TYING: dict[str, dict[str, Any]] = {  # what only a head that is tied to the embedding can do
    "tied-saved": FAMILY["embedding-saved"] | {"ensure_weight_tying": True},
    "tied-lora": FAMILY["embedding"] | {"ensure_weight_tying": True},
    "tied-tokens": FAMILY["tokens"] | {"ensure_weight_tying": True},
}
WITH_BIAS = ("bias-all", "bias-lora-only", "dora-bias")  # PEFT has nothing to save without


def family_of(model_family: str, *, is_compiled: bool = False) -> dict[str, dict[str, Any]]:
    """The configurations for which a family's checkpoints have modules.

    With `is_compiled` without those that compiled kernels refuse by name.
    """
    is_tied = model_family in TIED
    missing = set() if model_family in ("qwen2", "granite") else set(WITH_BIAS)
    if is_compiled:
        missing |= {"linear-saved"}
    configs = FAMILY | (TYING if is_tied else {})
    return {name: one for name, one in configs.items() if name not in missing}


def load_base(folder: Path) -> PreTrainedModel:
    """The transformers model of a folder, float32 and eager."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.train(False)
    return model


def write_adapter(
    base_folder: Path,
    folder: Path,
    *,
    seed: int,
    save_embedding_layers: bool = False,
    **config: Any,
) -> Path:
    """Save a random adapter whose update is as large as the weights it changes.

    With `save_embedding_layers` PEFT adds copies of embedding and head to it, as it does by itself
    for an adapter that targets one of them.
    """
    torch.manual_seed(seed)
    model = get_peft_model(load_base(base_folder), LoraConfig(task_type="CAUSAL_LM", **config))
    randomize(model)
    model.save_pretrained(folder, save_embedding_layers=save_embedding_layers)
    return folder


@torch.no_grad()
def randomize(model: PeftModel) -> None:
    """Random values for all that PEFT trains, so that nothing is left at what it began with."""
    for name, parameter in model.named_parameters():
        if "lora_magnitude_vector" in name:
            parameter.mul_(1 + 0.2 * torch.randn_like(parameter))
        elif "lora_embedding_A" in name:
            torch.nn.init.normal_(parameter, std=0.5)
        elif "lora_" in name and parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.3 * parameter.shape[1] ** -0.5)
        elif parameter.requires_grad:  # biases, saved modules, tokens
            parameter.add_(
                0.3 * torch.randn_like(parameter) * parameter.std(correction=0).clamp(min=0.3)
            )


def write_unlike_adapters(
    base_folder: Path, folder: Path, configs: Mapping[str, Mapping[str, Any]] = UNLIKE
) -> dict[str, Path]:
    """An adapter of each configuration, by name."""
    return {
        name: write_adapter(base_folder, folder / name, seed=index, **config)
        for index, (name, config) in enumerate(configs.items())
    }
