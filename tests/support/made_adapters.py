"""Adapters that were never in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lorry_server.lora.adapter import Adapter, LoraWeights


def made_adapter(modules: Mapping[str, LoraWeights], *, digest: str = "made") -> Adapter:
    """What `read_adapter` would give for a folder with these `modules`."""
    return Adapter(
        path=Path("/adapters") / digest,
        digest=digest,
        rank=max(weights.rank for weights in modules.values()),
        alpha=1.0,
        target_modules=tuple(modules),
        num_bytes=sum(w.a_RI.nbytes + w.b_OR.nbytes for w in modules.values()),
        modules=modules,
    )
