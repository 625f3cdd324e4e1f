"""A real engine on a tiny model: our decoder, the reference runner, adapters, a paged cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lorry_server.engine.block_pool import BlockPool
from lorry_server.engine.engine import Engine
from lorry_server.engine.scheduler import Scheduler
from lorry_server.layers.attention import AttentionBackend
from lorry_server.layers.embedding import EmbeddingPlace
from lorry_server.layers.linear import Linear
from lorry_server.layers.norm import RMSNorm
from lorry_server.lora.adapter import read_adapter
from lorry_server.lora.pool import AdapterPool
from lorry_server.lora.residency import Residency
from lorry_server.model.base_weights import CheckpointWeights
from lorry_server.model.causal_model import CausalModel
from lorry_server.model.load import load_model
from lorry_server.runner.kv_cache import KVCache
from lorry_server.runner.reference import ReferenceRunner
from tests.support.engines import make_drafter

CPU = torch.device("cpu")


class RecordingModel:
    """A `CausalModel` that keeps a copy of every row of logits that it makes."""

    def __init__(self, model: CausalModel) -> None:
        self._model = model
        self.logits: list[Tensor] = []

    @property
    def num_layers(self) -> int:
        return self._model.num_layers

    @property
    def num_heads(self) -> int:
        return self._model.num_heads

    @property
    def num_kv_heads(self) -> int:
        return self._model.num_kv_heads

    @property
    def head_dim(self) -> int:
        return self._model.head_dim

    @property
    def vocab_size(self) -> int:
        return self._model.vocab_size

    @property
    def max_position(self) -> int:
        return self._model.max_position

    def forward(
        self, token_ids_T: Tensor, positions_T: Tensor, attention: AttentionBackend
    ) -> Tensor:
        return self._model.forward(token_ids_T, positions_T, attention)

    def compute_logits(self, hidden_ND: Tensor) -> Tensor:
        logits_NV = self._model.compute_logits(hidden_ND)
        self.logits.extend(logits_NV.clone())
        return logits_NV

    def linears(self) -> Iterator[Linear]:
        return self._model.linears()

    def norms(self) -> Iterator[RMSNorm]:
        return self._model.norms()

    @property
    def embedding(self) -> EmbeddingPlace | None:
        return self._model.embedding

    @property
    def base_weights(self) -> CheckpointWeights | None:
        return self._model.base_weights


@dataclass
class TinyEngine:
    """`engine` with the digests of its adapters and their `pool`; `model` records its logits."""

    engine: Engine
    model: RecordingModel
    pool: AdapterPool
    digests: dict[str, str] = field(default_factory=dict)


def make_tiny_engine(
    folder: Path,
    *,
    adapters: Mapping[str, Path] | None = None,
    quantization: str = "none",
    kv_cache_dtype: torch.dtype = torch.float32,
    num_blocks: int = 128,
    block_size: int = 16,
    max_num_seqs: int = 32,
    max_num_batched_tokens: int = 256,
    prefix_caching: bool = True,
    eos_token_ids: tuple[int, ...] = (),
    speculate: int = 0,
    adapter_budget: int | None = None,
) -> TinyEngine:
    """All `adapters` are resident at once, unless `adapter_budget` says how many bytes may be."""
    model = RecordingModel(
        load_model(folder, dtype=torch.float32, device=CPU, quantization=quantization)
    )
    read = {name: read_adapter(path) for name, path in (adapters or {}).items()}
    pool = AdapterPool(
        model.linears(),
        dtype=torch.float32,
        device=CPU,
        norms=model.norms(),
        embedding=model.embedding,
        base=model.base_weights,
    )
    prepared = [pool.prepare(adapter) for adapter in read.values()]
    if adapter_budget is None:
        adapter_budget = sum(one.num_bytes for one in prepared)
    cache = KVCache(
        num_layers=model.num_layers,
        num_kv_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        num_blocks=num_blocks,
        block_size=block_size,
        dtype=kv_cache_dtype,
        device=CPU,
    )
    max_model_len = min(model.max_position, num_blocks * block_size)
    scheduler = Scheduler(
        BlockPool(num_blocks),
        Residency(pool, budget_bytes=adapter_budget),
        block_size=block_size,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        prefix_caching=prefix_caching,
        drafter=make_drafter(speculate, max_model_len=max_model_len),
    )
    engine = Engine(
        scheduler,
        ReferenceRunner(model, cache, pool, device=CPU),
        block_size=block_size,
        eos_token_ids=eos_token_ids,
        max_model_len=max_model_len,
    )
    for one in prepared:
        assert not one.unmatched
        engine.offer_adapter(one)
    return TinyEngine(engine, model, pool, {name: adapter.digest for name, adapter in read.items()})
