"""`base_fingerprint`: a short text that tells base models apart without reading their weights.

It has two halves. The first is a hash of the shape: architecture, heads, names and sizes of all
tensors. The second is one of a sample of the weights' bytes. So a model that was trained on has the
first half of the model that it came from, and a model of another size has neither. Cutting the
weights into other files changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lorry_server.errors import ModelError
from lorry_server.lora.adapter_files import SIDECAR_FILE
from lorry_server.lora.raw_tensors import RawTensors

MAX_CONTRACT_BYTES = 256 * 1024
MAX_CONFIG_BYTES = 4 << 20
NUM_SAMPLED_TENSORS = 32
NUM_WINDOWS = 3  # of a sampled tensor: its beginning, its middle and its end
WINDOW_BYTES = 1024
DIGEST_BYTES = 8
# A tied head is a copy that some files hold and others do not; rotations are computed.
_NOT_COMPARED = ("lm_head.weight", "rotary_emb.inv_freq")


def base_fingerprint(model_folder: Path) -> str:
    """`SHAPE-WEIGHTS`, 16 hexadecimal digits each, of a Hugging Face model folder.

    Reads config.json, the headers of the safetensors files and about 100 KiB of them. Raises
    ModelError where one of them cannot be read.
    """
    try:
        with (model_folder / "config.json").open("rb") as opened:
            config = json.loads(opened.read(MAX_CONFIG_BYTES))
        tensors = RawTensors.of_model(model_folder)
        return fingerprint_of(config, tensors)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as exc:
        raise ModelError(f"cannot take the fingerprint of {str(model_folder)!r}: {exc}") from exc


def fingerprint_of(config: Mapping[str, Any], tensors: RawTensors) -> str:
    """The same, of a configuration and tensors that are open already."""
    names = sorted(name for name in tensors if not name.endswith(_NOT_COMPARED))
    num_heads = config.get("num_attention_heads")
    shape = hashlib.blake2b(digest_size=DIGEST_BYTES)
    facts = [
        config.get("architectures"),
        num_heads,
        config.get("num_key_value_heads") or num_heads,
        [[name, tensors[name].shape] for name in names],
    ]
    shape.update(json.dumps(facts).encode())
    weights = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for name in evenly_spaced(names, NUM_SAMPLED_TENSORS):
        tensor = tensors[name]
        weights.update(f"{name} {tensor.dtype} ".encode())
        last = max(0, tensor.stop - tensor.start - WINDOW_BYTES)
        for window in range(NUM_WINDOWS):
            weights.update(tensor.bytes_at(last * window // (NUM_WINDOWS - 1), WINDOW_BYTES))
    return f"{shape.hexdigest()}-{weights.hexdigest()}"


def recorded_fingerprint(adapter_folder: Path) -> str | None:
    """What the adapter's lorry.json says of the base that it was trained on, if anything.

    A file that is not as it should be is the business of whoever reads the whole of it.
    """
    try:
        with (adapter_folder / SIDECAR_FILE).open("rb") as opened:
            contract = json.loads(opened.read(MAX_CONTRACT_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    recorded = contract.get("base_fingerprint") if isinstance(contract, dict) else None
    return recorded if isinstance(recorded, str) else None


def evenly_spaced(names: Sequence[str], num: int) -> list[str]:
    """At most `num` of `names`, the first and the last among them."""
    if len(names) <= num:
        return list(names)
    return [names[place * (len(names) - 1) // (num - 1)] for place in range(num)]
