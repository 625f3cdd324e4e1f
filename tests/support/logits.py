"""Logits of one sequence, by our model and by transformers, to be compared in float32."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lorry_server.model.load import load_model
from tests.support.simple_attention import SimpleAttention

CPU = torch.device("cpu")
TOLERANCE = 1e-4


def token_ids(count: int = 24) -> Tensor:
    """Always the same, all in the vocabulary of the tiny models."""
    return torch.randint(0, 260, (count,), generator=torch.Generator().manual_seed(7))


@torch.inference_mode()
def our_logits(folder: Path, ids_T: Tensor, *, chunk_sizes: list[int] | None = None) -> Tensor:
    model = load_model(folder, dtype=torch.float32, device=CPU, quantization="none")
    attention = SimpleAttention()
    positions_T = torch.arange(len(ids_T))
    chunks = torch.split(torch.stack((ids_T, positions_T)), chunk_sizes or len(ids_T), dim=1)
    hidden = [model.forward(ids, positions, attention) for ids, positions in chunks]
    return model.compute_logits(torch.cat(hidden))


@torch.inference_mode()
def transformers_logits(folder: Path, ids_T: Tensor) -> Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    logits: Tensor = model(ids_T[None]).logits[0]
    return logits
