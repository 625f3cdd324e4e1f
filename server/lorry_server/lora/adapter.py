"""Read a PEFT LoRA folder: its configuration, its tensors, and the digest that names both.

Only safetensors are read. What is read is checked in itself; what it means on a model is
`lora.matching`'s.

Shape legend: R rank rows, I inputs and O outputs of a linear module, K tokens, D hidden size.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from lorry_server.errors import AdapterError
from lorry_server.lora.adapter_files import (
    CONTRACT_FILES,
    MAX_SMALL_FILE_BYTES,
    PICKLE_FILE,
    SIDECAR_FILE,
    WEIGHTS_FILE,
)
from lorry_server.lora.peft_config import read_config
from lorry_server.lora.peft_tensors import LoraWeights as LoraWeights
from lorry_server.lora.peft_tensors import TokenRows, sort_tensors
from lorry_server.lora.safetensors_header import check_header


@dataclass(frozen=True, slots=True)
class Adapter:
    """A folder, read and checked in itself; whether it fits a model is checked in `lora.matching`.

    All names are the model's own paths of modules, "model.layers.0.self_attn.q_proj", and of
    tensors, the same with ".weight" or ".bias".
    """

    path: Path
    digest: str
    rank: int  # the largest of its modules; 0 where it has no LoRA at all
    alpha: float
    target_modules: tuple[str, ...]
    num_bytes: int
    modules: Mapping[str, LoraWeights]  # of linear modules
    embedding: Mapping[str, LoraWeights] = field(default_factory=dict)  # inputs are token ids
    replaced: Mapping[str, Tensor] = field(
        default_factory=dict
    )  # tensors that stand in the base's place
    base_copies: Mapping[str, Tensor] = field(default_factory=dict)  # of the base, or in its place
    token_rows: Mapping[str, TokenRows] = field(default_factory=dict)  # single rows of a module
    initialization: str | None = (
        None  # what the base weights lost when training began: see `lora.initial_weights`
    )
    features: tuple[str, ...] = ()  # beyond plain LoRA: "dora", "rslora", "lm_head", ...

    @property
    def names(self) -> tuple[str, ...]:
        """The modules and tensors that it changes, in order."""
        changed = (self.modules, self.embedding, self.replaced, self.token_rows)
        return tuple(sorted(name for names in changed for name in names))


def read_adapter(path: Path) -> Adapter:
    """Read and check the PEFT folder at `path`.

    Raises AdapterError that names what is wrong: a missing or unreadable file, an unsupported
    option, a tensor with a bad name, shape or value.
    """
    config = read_config(path)
    tensors, weights_bytes = _read_tensors(path)
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(config.raw, sort_keys=True).encode())
    digest.update(weights_bytes)
    for content in _read_contract(path):
        digest.update(content)
    found = sort_tensors(path, config, tensors)
    pairs = [*found.modules.values(), *found.embedding.values()]
    return Adapter(
        path=path,
        digest=digest.hexdigest(),
        rank=max((weights.rank for weights in pairs), default=0),
        alpha=config.alpha,
        target_modules=config.target_modules,
        num_bytes=len(weights_bytes) + config.num_bytes,
        modules=found.modules,
        embedding=found.embedding,
        replaced=found.replaced,
        base_copies=found.base_copies,
        token_rows=found.token_rows,
        initialization=config.initialization,
        features=found.features(config),
    )


def _read_contract(path: Path) -> Iterator[bytes]:
    """What the adapter says of how it is to be used: another contract is another version."""
    for name in CONTRACT_FILES:
        if not (path / SIDECAR_FILE).is_file() or not (path / name).is_file():
            continue
        with (path / name).open("rb") as opened:
            yield opened.read(MAX_SMALL_FILE_BYTES)


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], bytes]:
    file = path / WEIGHTS_FILE
    if not file.is_file():
        if (path / PICKLE_FILE).exists():
            raise AdapterError(
                f"{str(path / PICKLE_FILE)!r} is a pickle, which can run code when it is read; "
                f"save the adapter as {WEIGHTS_FILE}"
            )
        raise AdapterError(f"no {WEIGHTS_FILE} in {str(path)!r}")
    try:
        with file.open("rb") as opened:
            check_header(opened)
        # Read once: what is served is what the digest names, whatever happens to the file meanwhile.
        raw = file.read_bytes()
        return load(raw), raw
    except AdapterError as exc:
        raise AdapterError(f"{str(file)!r} is {exc}") from exc
    except (SafetensorError, ValueError) as exc:
        raise AdapterError(f"{str(file)!r} is not a valid safetensors file") from exc
    except OSError as exc:
        raise AdapterError(f"{str(file)!r} cannot be read: {exc.strerror}") from exc
