"""`CompiledRunner`: a step as one call into compiled code, on threads of its own.

With quantized weights and an int8 cache it gives the same bits as `ReferenceRunner`: each float
operation has one order, written down in the references under `kernels`. Products of floats and
attention over a cache of floats are sums in an order of their own; they differ from torch's by rounding.
In all cases a sequence's bits depend neither on what else is in the batch nor on how its prompt
was cut or how many threads there are.
"""

from __future__ import annotations

import time
import weakref
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from lorry_server.engine.plan import StepPlan, StepResult, concatenate_results
from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.logits_block import scratch_bytes as sampling_bytes
from lorry_server.kernels.cpu.memory import Arena, address
from lorry_server.kernels.cpu.pack import padded
from lorry_server.model.decoder import Decoder
from lorry_server.runner.compiled.adapter_tables import make_adapter_table
from lorry_server.runner.compiled.cache import make_cache
from lorry_server.runner.compiled.decoder_tape import DecoderTape, Sizes
from lorry_server.runner.compiled.step_block import StepBlock
from lorry_server.runner.compiled.workers import Workers

MAX_LOGITS_ROWS = 64
TILE_SCRATCH_BYTES = 16 << 10  # results of a tile and its neighbours'


class CompiledRunner:
    """Takes the decoder over: its weights are packed and the unpacked ones let go.

    `kernels` is what `rungs.load_kernels` gives, `float_kernels` what `rungs.load_float_kernels`
    gives, or 0 where `arithmetic.computes_floats` says that they are not needed; `kv_dtype` one of
    `cache.KV_DTYPES`. Sequences may have `max_model_len` tokens, a step `max_tokens` and as many
    sequences.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        kernels: Callable[[int, int], None],
        float_kernels: int,
        num_blocks: int,
        block_size: int,
        max_tokens: int,
        max_model_len: int,
        num_threads: int,
        kv_dtype: torch.dtype,
    ) -> None:
        arena = Arena()
        self._arena = arena
        arch = decoder.arch
        self.adapters = make_adapter_table(decoder, arena, max_rows=max_tokens)
        cache = make_cache(
            decoder,
            Arena(huge_pages=False),
            dtype=kv_dtype,
            num_blocks=num_blocks,
            block_size=block_size,
        )
        sizes = Sizes(max_tokens, min(MAX_LOGITS_ROWS, max_tokens), max_model_len)
        self._tape = DecoderTape(decoder, cache, self.adapters, arena, sizes)
        records = self._tape.tape.finish(arena)
        self._num_ops = len(self._tape.tape.names())
        self._records = address(records)
        self._cycles = arena.words(self._num_ops)
        self._seconds = 0.0
        scores_length = -(-max_model_len // 32) * 32 + 32
        self._block = StepBlock(
            arena,
            max_tokens=max_tokens,
            max_rows=sizes.max_rows,
            max_blocks=-(-max_model_len // block_size),
            block_size=block_size,
            num_ops=self._num_ops,
            num_threads=num_threads,
            scratch_bytes=_scratch_bytes(decoder, scores_length),
            scores_length=scores_length,
        )
        self._block.set(t.SECOND_PART, float_kernels)
        stride = self._tape.logits.padded
        self._logits_NV = self._tape.logits.values.reshape(-1, stride)[:, : arch.vocab_size]
        self._workers = Workers(self._block.words, num_threads=num_threads, run=kernels)
        self._end_workers = weakref.finalize(self, self._workers.stop)

    def close(self) -> None:
        """End the worker threads; they end as well when nothing refers to the runner any more."""
        self._end_workers()

    def phase_seconds(self) -> dict[str, float]:
        """Where all steps so far have spent their time, by kind of operation."""
        cycles: dict[str, int] = defaultdict(int)
        for name, count in zip(self._tape.tape.names(), self._cycles.tolist(), strict=True):
            cycles[name] += count
        total = max(1, sum(cycles.values()))
        return {name: self._seconds * count / total for name, count in cycles.items()}

    @property
    def logits_NV(self) -> npt.NDArray[np.float32]:
        """Where logits are made; after a step its first rows hold the last that were wanted."""
        return self._logits_NV

    def run(self, plan: StepPlan) -> StepResult:
        """Compute one step."""
        self._block.fill(plan, self.adapters.slots_of_tokens(plan.segments, plan.token_ids_T))
        parts = []
        first, num_rows = 0, len(plan.logits.rows_N)
        while True:
            logits_plan = plan.logits
            if num_rows > self._block.max_rows:
                logits_plan = plan.logits.slice(first, first + self._block.max_rows)
            self._block.fill_rows(logits_plan.rows_N)
            self._tape.logits_rows.fill(logits_plan)
            # The first part brings the whole step with it, the others only what concerns their rows.
            self._walk(0 if first == 0 else self._tape.tail)
            if len(logits_plan.rows_N):
                parts.append(self._tape.logits_rows.result())
            first += self._block.max_rows
            if first >= num_rows:
                return concatenate_results(parts) if len(parts) != 1 else parts[0]

    def _walk(self, first_op: int) -> None:
        record_bytes = t.WORDS * t.WORD_BYTES
        self._block.set(t.TAPE, self._records + first_op * record_bytes)
        self._block.set(t.NUM_OPS, self._num_ops - first_op)
        self._block.set(t.PHASE_CYCLES, address(self._cycles) + t.WORD_BYTES * first_op)
        began = time.perf_counter()
        self._workers.compute_step()
        self._seconds += time.perf_counter() - began


def _scratch_bytes(decoder: Decoder, scores_length: int) -> int:
    """What one thread needs for the largest of its chunks."""
    arch = decoder.arch
    rows = 6
    attention = scores_length * (4 * rows + rows + 4) + scores_length // 8 * rows
    attention += scores_length // 2  # where the runs lie
    attention += 64 + 4 * rows * padded(arch.head_dim)
    row = 4 * padded(arch.hidden_size)
    head = 8 * padded(arch.head_dim)
    return (
        -(
            -(max(attention, row, head, sampling_bytes(arch.vocab_size)) + TILE_SCRATCH_BYTES)
            // 4096
        )
        * 4096
    )
