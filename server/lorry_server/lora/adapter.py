"""Read a PEFT LoRA folder: its configuration, its tensors, and the digest that names both.

Only safetensors are read. Whatever the configuration asks for and this server does not compute is
refused by name, because an adapter that is applied in part gives wrong answers in silence.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from lorry_server.errors import AdapterError

MAX_CONFIG_BYTES = 1 << 20
MAX_RANK = 512
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"

_TENSOR = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<half>[AB])\.weight")
_PLAIN_PATTERN = re.compile(r"\^?[A-Za-z0-9_.]+\$?")

# Initialisations that also change the base weights; the adapter alone does not hold the result.
_INITS_THAT_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq")


@dataclass(frozen=True, slots=True)
class LoraWeights:
    """The update of one module: `b_OR @ a_RI`, float32, `scaling` already folded into `b_OR`."""

    a_RI: Tensor
    b_OR: Tensor
    scaling: float = 1.0  # what was folded in

    @property
    def rank(self) -> int:
        return self.a_RI.shape[0]


@dataclass(frozen=True, slots=True)
class Adapter:
    """A folder, read and checked in itself; whether it fits a model is checked in `lora.match`."""

    path: Path
    digest: str
    rank: int  # the largest of its modules
    alpha: float
    target_modules: tuple[str, ...]
    num_bytes: int
    modules: Mapping[str, LoraWeights]  # of linear modules, by the model's own path
    embedding: Mapping[str, LoraWeights] = field(default_factory=dict)  # inputs are token ids
    base_copies: Mapping[str, Tensor] = field(default_factory=dict)  # of the base, or in its place
    features: tuple[str, ...] = ()  # beyond plain LoRA: "dora", "rslora", "lm_head", ...


def read_adapter(path: Path) -> Adapter:
    """Read and check the PEFT folder at `path`.

    Raises AdapterError that names what is wrong: a missing or unreadable file, an unsupported
    option, a tensor with a bad name, shape or value.
    """
    config_bytes, config = _read_config(path)
    _refuse_unsupported(path, config)
    tensors, weights_bytes = _read_tensors(path)
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(config, sort_keys=True).encode())
    digest.update(weights_bytes)
    modules = _pair(path, config, tensors)
    targets = config.get("target_modules")
    return Adapter(
        path=path,
        digest=digest.hexdigest(),
        rank=max(weights.rank for weights in modules.values()),
        alpha=float(config["lora_alpha"]),
        target_modules=tuple(sorted(targets) if isinstance(targets, list) else [str(targets)]),
        num_bytes=len(weights_bytes) + len(config_bytes),
        modules=modules,
    )


def _read_config(path: Path) -> tuple[bytes, dict[str, Any]]:
    file = path / CONFIG_FILE
    if not file.is_file():
        raise AdapterError(f"no {CONFIG_FILE} in {str(path)!r}: not a PEFT adapter folder")
    if file.stat().st_size > MAX_CONFIG_BYTES:
        raise AdapterError(f"{str(file)!r} is larger than {MAX_CONFIG_BYTES} bytes")
    raw = file.read_bytes()
    try:
        config = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise AdapterError(f"{str(file)!r} is not valid JSON") from exc
    if not isinstance(config, dict):
        raise AdapterError(f"{str(file)!r} must hold a JSON object")
    return raw, config


def _refuse_unsupported(path: Path, config: dict[str, Any]) -> None:
    def refuse(option: str, reason: str) -> None:
        value = config.get(option)
        raise AdapterError(f"adapter {str(path)!r} has {option}={value!r}: {reason}")

    if config.get("peft_type") != "LORA":
        refuse("peft_type", "only 'LORA' is supported")
    if config.get("bias", "none") != "none":
        refuse("bias", "only 'none' is supported")
    for option in (
        "use_dora",
        "use_qalora",
        "lora_bias",
        "fan_in_fan_out",
        "modules_to_save",
        "layer_replication",
        "trainable_token_indices",
        "alora_invocation_tokens",
        "target_parameters",
        "arrow_config",
    ):
        if config.get(option):
            refuse(option, "not supported")
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(_INITS_THAT_CHANGE_THE_BASE):
        refuse("init_lora_weights", "it changes the base weights; convert it to plain LoRA first")
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
        refuse("lora_alpha", "it must be a finite number")
    for option in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(option) or {}
        if not isinstance(patterns, dict):
            refuse(option, "it must be an object of module names and numbers")
        for pattern, value in patterns.items():
            # PEFT reads these keys as regular expressions; running a stranger's expression is a
            # way to be stalled, so only plain names are taken.
            if len(pattern) > 256 or _PLAIN_PATTERN.fullmatch(pattern) is None:
                refuse(option, f"{pattern[:64]!r} is not a plain module name")
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                refuse(option, f"{pattern[:64]!r} must map to a number")


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], bytes]:
    file = path / WEIGHTS_FILE
    if not file.is_file():
        if (path / PICKLE_FILE).exists():
            raise AdapterError(
                f"{str(path / PICKLE_FILE)!r} is a pickle, which can run code when it is read; "
                f"save the adapter as {WEIGHTS_FILE}"
            )
        raise AdapterError(f"no {WEIGHTS_FILE} in {str(path)!r}")
    # Read once: what is served is what the digest names, whatever happens to the file meanwhile.
    try:
        raw = file.read_bytes()
        return load(raw), raw
    except (SafetensorError, OSError, ValueError) as exc:
        raise AdapterError(f"{str(file)!r} is not a valid safetensors file") from exc


def _pair(path: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, LoraWeights]:
    halves: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None and name.endswith(".base_layer.weight"):
            raise AdapterError(
                f"adapter {str(path)!r}: {name[:128]!r} is a copy of the base model's layer; "
                "save the adapter with save_embedding_layers=False"
            )
        if match is None:
            raise AdapterError(
                f"adapter {str(path)!r}: tensor {name[:128]!r} is not a LoRA A or B matrix "
                "of a linear layer, and nothing else is supported"
            )
        _check_tensor(path, name, tensor)
        halves.setdefault(match["module"], {})[match["half"]] = tensor.float()
    if not halves:
        raise AdapterError(f"adapter {str(path)!r} holds no tensors")
    modules = {}
    for module, pair in sorted(halves.items()):
        if set(pair) != {"A", "B"}:
            raise AdapterError(f"adapter {str(path)!r}: {module!r} has only one of lora_A, lora_B")
        rank = pair["A"].shape[0]
        if pair["B"].shape[1] != rank:
            raise AdapterError(
                f"adapter {str(path)!r}: {module!r} has rank {rank} in lora_A and "
                f"{pair['B'].shape[1]} in lora_B"
            )
        if not 1 <= rank <= MAX_RANK:
            raise AdapterError(
                f"adapter {str(path)!r}: {module!r} has rank {rank}; 1 to {MAX_RANK} is supported"
            )
        scaling = _scaling(config, module, rank)
        modules[module] = LoraWeights(pair["A"], pair["B"] * scaling, scaling=scaling)
    return modules


def _check_tensor(path: Path, name: str, tensor: Tensor) -> None:
    if tensor.dim() != 2 or not tensor.dtype.is_floating_point:
        raise AdapterError(
            f"adapter {str(path)!r}: tensor {name!r} has shape {tuple(tensor.shape)} and dtype "
            f"{tensor.dtype}; a float matrix is wanted"
        )
    if not torch.isfinite(tensor.float()).all():
        raise AdapterError(f"adapter {str(path)!r}: tensor {name!r} holds NaN or infinity")


def _scaling(config: dict[str, Any], module: str, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA (arXiv 2312.03732)."""
    alpha = float(config["lora_alpha"])
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if _matches(pattern, module):
            alpha = float(value)
            break
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _matches(pattern: str, module: str) -> bool:
    """Whether a plain pattern names the module, by its whole path or by the end of it."""
    name = pattern.removesuffix("$")
    if name.startswith("^"):
        return module == name[1:]
    return module == name or module.endswith(f".{name}")
