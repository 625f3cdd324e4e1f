"""Fills a `Decoder` from a checkpoint, tensor by tensor, so that memory holds one copy.

One table says where each tensor of the checkpoint goes; q, k and v go to rows of one linear.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from lorry_server.errors import ModelError
from lorry_server.layers.linear import Linear
from lorry_server.model.checkpoint import Checkpoint
from lorry_server.model.decoder import Decoder

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
# written by old versions of transformers; computed from config.json instead
COMPUTED = re.compile(r"(^|\.)rotary_emb\.inv_freq$")
MAX_NAMES_IN_ERROR = 8


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a tensor goes and the shape that it must have there."""

    shape: tuple[int, ...]
    load: Callable[[Tensor], object]


@torch.no_grad()
def load_weights(decoder: Decoder, checkpoint: Checkpoint) -> None:
    """Raises `ModelError` that names tensors which are missing, not known, or of a wrong shape."""
    table = tensor_table(decoder)
    found = {name for name in checkpoint.names() if not COMPUTED.search(name)}
    if decoder.arch.tied_embeddings:
        found.discard(HEAD)  # a copy of the embedding
    _refuse("misses the tensors", table.keys() - found)
    _refuse("has tensors that this architecture does not know:", found - table.keys())
    for name, destination in table.items():
        shape = checkpoint.shape(name)
        if shape != destination.shape:
            raise ModelError(
                f"tensor {name} has shape {list(shape)}; "
                f"config.json calls for {list(destination.shape)}"
            )
        destination.load(checkpoint.read(name))


def tensor_table(decoder: Decoder) -> dict[str, Destination]:
    """Every tensor that the decoder needs, under its name in the checkpoint."""
    arch = decoder.arch
    table: dict[str, Destination] = {}
    for linear in decoder.linears():
        table |= _linear_table(linear)
    for norm in decoder.norms():
        table[f"{norm.name}.weight"] = Destination((norm.size,), norm.load_)
    if decoder.embedding_VD is None:
        table[EMBEDDING] = table.pop(HEAD)
    else:
        table[EMBEDDING] = Destination(
            (arch.vocab_size, arch.hidden_size), decoder.embedding_VD.copy_
        )
    return table


def _linear_table(linear: Linear) -> dict[str, Destination]:
    table: dict[str, Destination] = {}
    for part in linear.slices:
        num_rows = part.stop - part.start
        table[f"{part.name}.weight"] = Destination(
            (num_rows, linear.in_features), partial(linear.weight.load_rows_, part.start)
        )
        if linear.bias_O is not None:
            table[f"{part.name}.bias"] = Destination(
                (num_rows,), linear.bias_O[part.start : part.stop].copy_
            )
    return table


def _refuse(complaint: str, names: Iterable[str]) -> None:
    ordered = sorted(names)
    if ordered:
        shown = ", ".join(ordered[:MAX_NAMES_IN_ERROR])
        rest = len(ordered) - MAX_NAMES_IN_ERROR
        raise ModelError(
            f"the checkpoint {complaint} {shown}" + (f" and {rest} more" if rest > 0 else "")
        )
