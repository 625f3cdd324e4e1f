"""`ReferenceRunner`: a step in plain torch, on CPU or CUDA.

It is the specification of every faster runner and stays beside them. Nothing here knows about
requests: all it needs is in the plan.

Shape legend: T tokens of the step, N logits rows, G adapter segments, D hidden.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lorry_server.engine.plan import (
    AdapterSegments,
    Int32,
    StepPlan,
    StepResult,
    concatenate_results,
)
from lorry_server.kernels.lora import TokenSegment
from lorry_server.kernels.paged_attention import QueryGroup, group_queries
from lorry_server.lora.pool import AdapterPool
from lorry_server.model.causal_model import CausalModel
from lorry_server.runner.kv_cache import KVCache
from lorry_server.runner.sampler import sample

# Logits of this many rows are made at a time, so that the logprobs of a long prompt do not take
# rows x vocabulary floats at once.
MAX_LOGITS_ROWS = 256

# A step of this many tokens does enough work between two meetings of its threads.
MANY_TOKENS = 64


class StepAttention:
    """The `AttentionBackend` of one step: writes to the cache, attends over the blocks."""

    def __init__(self, cache: KVCache, slot_mapping_T: Tensor, groups: list[QueryGroup]) -> None:
        self._cache = cache
        self._slot_mapping_T = slot_mapping_T
        self._groups = groups

    def attend(
        self,
        layer: int,
        q_TNH: Tensor,
        k_TKH: Tensor,
        v_TKH: Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """See `layers.attention.AttentionBackend.attend`."""
        self._cache.write(layer, k_TKH, v_TKH, self._slot_mapping_T)
        return self._cache.attend(
            layer, q_TNH, self._groups, scale=scale, window=window, softcap=softcap
        )


class ReferenceRunner:
    """Runs plans on `model` with `cache`; `adapters` is the pool of the model's linears.

    On a CPU, steps of many tokens use `num_threads`; smaller ones leave one of them to the event
    loop. torch's threads meet after every operation, and a decode step has two thousand short
    ones: a thread that is held back by other work holds all of them back, every time.
    """

    def __init__(
        self,
        model: CausalModel,
        cache: KVCache,
        adapters: AdapterPool,
        *,
        device: torch.device,
        num_threads: int = 1,
    ) -> None:
        self._model = model
        self._cache = cache
        self.adapters = adapters
        self._routing = adapters.routing
        self._device = device
        self._num_threads = num_threads

    @torch.inference_mode()
    def run(self, plan: StepPlan) -> StepResult:
        """Compute one step. Raises what torch raises; the engine ends the step's sequences."""
        is_large = plan.num_tokens >= MANY_TOKENS
        torch.set_num_threads(self._num_threads if is_large else max(1, self._num_threads - 1))
        groups = group_queries(
            positions_T=plan.positions_T,
            query_starts_S1=plan.query_starts_S1,
            context_lens_S=plan.context_lens_S,
            block_tables_SM=plan.block_tables_SM,
            block_size=self._cache.block_size,
            device=self._device,
            context_multiple=self._cache.context_multiple,
        )
        attention = StepAttention(self._cache, self._tensor(plan.slot_mapping_T), groups)
        self._routing.segments = self._segments(plan.segments, num_tokens=plan.num_tokens)
        hidden_TD = self._model.forward(
            self._tensor(plan.token_ids_T), self._tensor(plan.positions_T), attention
        )
        return self._sample(hidden_TD, plan)

    def _sample(self, hidden_TD: Tensor, plan: StepPlan) -> StepResult:
        parts = []
        for start in range(0, len(plan.logits.rows_N), MAX_LOGITS_ROWS):
            logits_plan = plan.logits.slice(start, start + MAX_LOGITS_ROWS)
            rows_N = logits_plan.rows_N
            # The head sees only the rows that are wanted, so its adapters are routed anew.
            segments = _segments_of_rows(plan.segments, rows_N, num_tokens=plan.num_tokens)
            self._routing.segments = self._segments(segments, num_tokens=len(rows_N))
            logits_NV = self._model.compute_logits(hidden_TD[self._tensor(rows_N)])
            parts.append(sample(logits_NV, logits_plan))
        return concatenate_results(parts)

    def _segments(self, segments: AdapterSegments, *, num_tokens: int) -> tuple[TokenSegment, ...]:
        starts = segments.starts_G1
        converted = []
        for index in range(len(segments.slots_G)):
            tokens_P = segments.tokens_P[starts[index] : starts[index + 1]]
            if len(tokens_P) == 0:
                continue
            covers_all = len(tokens_P) == num_tokens
            converted.append(
                TokenSegment(
                    tokens_P=None if covers_all else self._tensor(tokens_P),
                    slot=int(segments.slots_G[index]),
                )
            )
        return tuple(converted)

    def _tensor(self, array: Int32) -> Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(self._device)


def _segments_of_rows(
    segments: AdapterSegments, rows_N: Int32, *, num_tokens: int
) -> AdapterSegments:
    """The same segments over logits rows instead of tokens."""
    segment_of_token = np.full(num_tokens, -1, np.int32)
    for index in range(len(segments.slots_G)):
        tokens = segments.tokens_P[segments.starts_G1[index] : segments.starts_G1[index + 1]]
        segment_of_token[tokens] = index
    segment_of_row = segment_of_token[rows_N]
    runs = [
        np.flatnonzero(segment_of_row == index).astype(np.int32)
        for index in range(len(segments.slots_G))
    ]
    starts_G1 = np.zeros(len(runs) + 1, np.int32)
    np.cumsum([len(run) for run in runs], out=starts_G1[1:])
    return AdapterSegments(
        tokens_P=np.concatenate(runs) if runs else np.zeros(0, np.int32),
        starts_G1=starts_G1,
        slots_G=segments.slots_G,
    )
