"""Tapes of a few operations, to compare single kernels with their references.

Shape legend: T tokens of the step, S sequences, N rows, D features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from lorry_server.engine.plan import AdapterSegments, Int32, LogitsPlan, StepPlan
from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.memory import Arena, address
from lorry_server.runner.compiled.buffers import FloatRows, QuantizedRows
from lorry_server.runner.compiled.records import Field, Tape
from lorry_server.runner.compiled.rungs import TORCH, available_rungs
from lorry_server.runner.compiled.step_block import StepBlock
from lorry_server.runner.compiled.workers import Workers
from tests.support.twin_engine import kernels

needs_kernels = pytest.mark.skipif(
    available_rungs()[0] == TORCH, reason="this machine has no compiled kernels"
)
SCRATCH_BYTES = 1 << 20  # of a thread: enough for every size here
NO_SEGMENTS = AdapterSegments(*(np.zeros(size, np.int32) for size in (0, 1, 0)))
DTYPES = {"Int32": np.int32, "Int64": np.int64, "Float32": np.float32}


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens `start : stop` of a sequence, which are a step's; `blocks` hold all of it."""

    start: int
    stop: int
    blocks: Sequence[int]


class KernelTape:
    """Operations under construction, with the memory that they name."""

    def __init__(
        self,
        *,
        max_tokens: int = 128,
        max_rows: int = 128,
        max_positions: int = 512,
        block_size: int = 16,
    ) -> None:
        self.arena = Arena()
        self.block_size = block_size
        self._tape = Tape()
        self._max_tokens = max_tokens
        self._max_rows = max_rows
        self._max_positions = max_positions

    def add(self, op: int, fields: dict[int, Field], *, rows: int = t.TOKENS) -> None:
        self._tape.add("", op, fields, rows=rows)

    def floats(self, x_ND: Tensor) -> FloatRows:
        """Rows that hold `x_ND`, zeros after them."""
        rows = FloatRows(self.arena, num_rows=len(x_ND), size=x_ND.shape[1])
        rows.values.reshape(-1, rows.padded)[:, : rows.size] = x_ND.numpy()
        return rows

    def padded_floats(self, x_D: Tensor) -> npt.NDArray[np.float32]:
        """A vector, as norm weights are: zeros after it."""
        values = self.arena.floats(-(-len(x_D) // 32) * 32)
        values[: len(x_D)] = x_D.numpy()
        return values

    def quantized(self, x_ND: Tensor, *, rows: int = t.TOKENS) -> QuantizedRows:
        """The bytes that a QUANTIZE, which is added, makes of `x_ND`: all `rows` of the step."""
        given = self.floats(x_ND)
        made = QuantizedRows(self.arena, num_rows=len(x_ND), size=given.size)
        source: dict[int, Field] = {t.NORM_X: given.values, t.NORM_LD_X: given.stride}
        self.add(t.QUANTIZE, made.as_input() | source, rows=rows)
        return made

    @contextmanager
    def started(self, *, num_threads: int = 1) -> Iterator[RunningTape]:
        """The tape with its threads."""
        running = self._running(num_threads)
        try:
            yield running
        finally:
            running.close()

    def compute(
        self,
        plan: StepPlan,
        *,
        rows: Sequence[int] = (),
        adapters: Int32 | None = None,
        num_threads: int = 1,
    ) -> None:
        """Compute one step; see `RunningTape.step`."""
        with self.started(num_threads=num_threads) as running:
            running.step(plan, rows=rows, adapters=adapters)

    def _running(self, num_threads: int) -> RunningTape:
        records = self._tape.finish(self.arena)
        num_ops = len(self._tape.names())
        block = StepBlock(
            self.arena,
            max_tokens=self._max_tokens,
            max_rows=self._max_rows,
            max_blocks=-(-self._max_positions // self.block_size),
            block_size=self.block_size,
            num_ops=num_ops,
            num_threads=num_threads,
            scratch_bytes=SCRATCH_BYTES,
            scores_length=-(-self._max_positions // 32) * 32 + 32,
        )
        block.set(t.TAPE, address(records))
        block.set(t.NUM_OPS, num_ops)
        return RunningTape(block, num_threads=num_threads)


class RunningTape:
    """A finished tape, its step block and its threads."""

    def __init__(self, block: StepBlock, *, num_threads: int) -> None:
        self.block = block
        self.workers = Workers(block.words, num_threads=num_threads, run=kernels())

    def step(
        self, plan: StepPlan, *, rows: Sequence[int] = (), adapters: Int32 | None = None
    ) -> None:
        """Compute a step. `rows` are its logits rows, `adapters` the number of each token's."""
        self.block.fill(plan, adapters)
        self.block.fill_rows(np.array(rows, np.int32))
        self.workers.compute_step()

    def close(self) -> None:
        self.workers.stop()


def plan_of(
    spans: Sequence[Span], *, block_size: int = 16, token_ids: Sequence[int] | None = None
) -> StepPlan:
    """The step that computes these spans; no logits are asked for."""
    positions_T = np.concatenate([np.arange(span.start, span.stop) for span in spans])
    blocks_T = np.concatenate(
        [np.array(span.blocks)[np.arange(span.start, span.stop) // block_size] for span in spans]
    )
    tables_SM = np.zeros((len(spans), max(len(span.blocks) for span in spans)), np.int32)
    for index, span in enumerate(spans):
        tables_SM[index, : len(span.blocks)] = span.blocks
    if token_ids is None:
        token_ids = [0] * len(positions_T)
    return StepPlan(
        token_ids_T=np.array(token_ids, np.int32),
        positions_T=positions_T.astype(np.int32),
        slot_mapping_T=(blocks_T * block_size + positions_T % block_size).astype(np.int32),
        query_starts_S1=np.cumsum([0, *(s.stop - s.start for s in spans)]).astype(np.int32),
        context_lens_S=np.array([span.stop for span in spans], np.int32),
        block_tables_SM=tables_SM,
        segments=NO_SEGMENTS,
        logits=_no_logits(),
    )


def plan_of_rows(num_tokens: int, *, token_ids: Sequence[int] | None = None) -> StepPlan:
    """A step for operations that know no sequences."""
    span = Span(0, num_tokens, range(-(-num_tokens // 16)))
    return plan_of([span], token_ids=token_ids)


def read_floats(rows: FloatRows, num_rows: int) -> Tensor:
    """What lies in the first rows, without their filling."""
    values = rows.values.reshape(-1, rows.padded)[:num_rows, : rows.size]
    return torch.from_numpy(values.copy())


def read_quantized(rows: QuantizedRows, num_rows: int) -> tuple[Tensor, Tensor]:
    """`(xq_NGJ int8, scale_NG)`, once the starts are seen to be those of the bytes."""
    shape = (num_rows, rows.num_groups)
    count = num_rows * rows.num_groups
    xq_NGJ = rows.bytes[: 32 * count].view(np.int8).reshape(*shape, 32)
    scale_NG = rows.scale[:count].reshape(shape)
    start_NG = rows.start[:count].reshape(shape)
    np.testing.assert_array_equal(start_NG, -128 * xq_NGJ.sum(axis=2, dtype=np.int32))
    return torch.from_numpy(xq_NGJ.copy()), torch.from_numpy(scale_NG.copy())


def same_bits(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors of float32 are equal to the bit, signs of zeros and NaN apart."""
    return left.shape == right.shape and torch.allclose(left, right, rtol=0, atol=0, equal_nan=True)


def _no_logits() -> LogitsPlan:
    return LogitsPlan(
        **{
            field.name: np.zeros(int(field.name.endswith("_N1")), DTYPES[str(field.type)])
            for field in fields(LogitsPlan)
        }
    )
