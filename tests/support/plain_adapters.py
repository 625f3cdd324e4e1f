"""Small adapters as bytes, made without torch and PEFT, and sources that are allowed to read them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lorry_server.adapters.sources.configured import AllowedSources, ConfiguredSources
from lorry_server.lora.adapter_files import CONFIG_FILE, SIDECAR_FILE, WEIGHTS_FILE

MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


def safetensors_file(
    header: Mapping[str, Any] | bytes, data: bytes = b"", *, length: int | None = None
) -> bytes:
    """A file with this header, which may be anything, and this length before it."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def adapter_files(*, rank: int = 2, width: int = 16, seed: int = 0) -> dict[str, bytes]:
    """The three files of an adapter of one layer, by name."""
    half = rank * width * 4
    header = {
        "__metadata__": {"format": "pt"},
        f"{MODULE}.lora_A.weight": {
            "dtype": "F32",
            "shape": [rank, width],
            "data_offsets": [0, half],
        },
        f"{MODULE}.lora_B.weight": {
            "dtype": "F32",
            "shape": [width, rank],
            "data_offsets": [half, 2 * half],
        },
    }
    # Below 0x3F the last byte of a float makes it finite and small.
    data = bytearray(random.Random(seed).randbytes(2 * half))
    data[3::4] = bytes(len(data) // 4)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 4, "target_modules": ["q_proj"]}
    return {
        CONFIG_FILE: json.dumps(config).encode(),
        WEIGHTS_FILE: safetensors_file(header, bytes(data)),
        SIDECAR_FILE: json.dumps({"description": f"adapter {seed}"}).encode(),
    }


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def read_files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def never() -> bool:
    """Nobody cancels."""
    return False


def sources_for(
    cache_dir: Path,
    *,
    roots: tuple[str, ...] = (),
    prefixes: tuple[str, ...] = (),
    folders: tuple[str, ...] = (),
    named: tuple[str, ...] = (),
    max_adapter_bytes: int = 1 << 26,
    disk_cache_bytes: int = 1 << 28,
    **replaced: Any,
) -> ConfiguredSources:
    """Sources that keep what they fetch below `cache_dir`; `replaced` goes to their constructor."""
    return ConfiguredSources(
        AllowedSources(
            roots=roots,
            prefixes=prefixes,
            folders=folders,
            named=named,
            max_adapter_bytes=max_adapter_bytes,
            disk_cache_bytes=disk_cache_bytes,
        ),
        cache_dir=cache_dir,
        **replaced,
    )


def kept_entries(cache_dir: Path) -> list[Path]:
    """What lies in the disk cache, whole or not."""
    folder = cache_dir / "adapters"
    return sorted(folder.iterdir()) if folder.is_dir() else []
