"""A small adapter with nothing wrong, written byte by byte: what broken ones are made from."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

Header = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """Of the `q_proj` that the adapters are for, in each of the model's first `num_layers`."""

    hidden_size: int = 64
    num_layers: int = 2
    rank: int = 4


TINY = Shape()


def write_sound(path: Path, shape: Shape = TINY, **changes: Any) -> Path:
    """An adapter that nothing is wrong with; `changes` are for its configuration."""
    path.mkdir(parents=True)
    write_config(path, shape, **changes)
    save_tensors(path, sound_tensors(shape))
    return path


def sound_config(shape: Shape) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "llama",
        "r": shape.rank,
        "lora_alpha": 8,
        "target_modules": ["q_proj"],
        "bias": "none",
    }


def sound_tensors(shape: Shape) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    width, rank = shape.hidden_size, shape.rank
    tensors = {}
    for layer in range(shape.num_layers):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = random.normal(size=(rank, width)) * width**-0.5
        tensors[f"{name}.lora_B.weight"] = random.normal(size=(width, rank)) * 0.1
    return {name: values.astype(np.float32) for name, values in tensors.items()}


def write_config(path: Path, shape: Shape, **changes: Any) -> None:
    (path / CONFIG).write_text(json.dumps(sound_config(shape) | changes))


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    header: Header = {}
    data = b""
    for name, values in tensors.items():
        raw = values.tobytes()
        header[name] = {
            "dtype": {"float32": "F32", "int32": "I32"}[values.dtype.name],
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    (path / WEIGHTS).write_bytes(file_of(header, data))


def file_of(header: Header | list[Any] | str, data: bytes) -> bytes:
    raw = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data
