"""The inner tile of every product of floats: a few rows times 32 columns, all in registers.

Columns are packed so that a step reads one line of 64 bytes for each 16 of them: one input of
float32, or a pair of inputs of bfloat16. Rows are of the same type as the columns, or float32. A
row's sums are made in the order of its inputs whatever other rows are in the tile, so they do not
depend on them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.core.extending import intrinsic

from lorry_server.kernels.cpu.bfloat16 import (
    V16F,
    V16I,
    emit_fma,
    emit_pair_products,
    emit_widened,
)
from lorry_server.kernels.cpu.simd import F32, I32, I64, emit_prefetch, pointer, splat

# Of numpy's type: numba compiles a function anew for each plain integer that it is called with.
LINE_BYTES, STEP_BYTES = np.int64(64), np.int64(128)
UNROLLED = 4
MAX_ROWS = 6


def make_float_tile(num_rows: int, *, pairs: bool, row_pairs: bool) -> Any:
    """The tile for `num_rows` rows; `pairs` says that columns are bfloat16, `row_pairs` that rows are.

    Arguments, all int64 and all addresses in bytes: `w_a`, `w_b` the first and the other 16 columns;
    `ldw` from step to step; `x`, `ldx` rows and their stride; `num_steps` of one input, or of a pair;
    `y`, `ldy` 32 float32 for each row, added to; `ahead`, what to prefetch line by line meanwhile.
    """

    @intrinsic
    def tile(
        typingctx: Any,
        w_a: Any,
        w_b: Any,
        ldw: Any,
        x: Any,
        ldx: Any,
        num_steps: Any,
        y: Any,
        ldy: Any,
        ahead: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            _Tile(context, builder, num_rows, pairs=pairs, row_pairs=row_pairs).emit(args)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), codegen

    return tile


class _Tile:
    """Writes the code of one tile."""

    def __init__(
        self, context: Any, builder: ir.IRBuilder, rows: int, *, pairs: bool, row_pairs: bool
    ) -> None:
        self.context = context
        self.b = builder
        self.rows = rows
        self.pairs = pairs
        self.row_pairs = row_pairs
        self.x_bytes = 8 if pairs and not row_pairs else 4  # of a step of a row
        self.lines_ahead = 8 if rows <= 2 else 4  # prefetched in UNROLLED steps, which read 8

    def emit(self, args: list[ir.Value]) -> None:
        b = self.b
        w_a, w_b, ldw, x, ldx, num_steps, y, ldy, ahead = args
        x_rows = [b.add(x, b.mul(ldx, _int(m))) for m in range(self.rows)]
        targets = [
            pointer(b, b.add(b.add(y, b.mul(ldy, _int(m))), _int(64 * v)), V16F)
            for m in range(self.rows)
            for v in range(2)
        ]
        sums = [b.load(target, align=4) for target in targets]

        def step(state: list[ir.Value]) -> list[ir.Value]:
            at, x_at, ahead_at, *sums = state
            sums = self._step(sums, (b.add(w_a, at), b.add(w_b, at)), x_rows, x_at)
            return [b.add(at, ldw), b.add(x_at, _int(self.x_bytes)), ahead_at, *sums]

        def steps(state: list[ir.Value]) -> list[ir.Value]:
            for line in range(self.lines_ahead):
                emit_prefetch(b, b.add(state[2], _int(64 * line)))
            state[2] = b.add(state[2], _int(64 * self.lines_ahead))
            for _ in range(UNROLLED):
                state = step(state)
            return state

        state = [_int(0), _int(0), ahead, *sums]
        state = self._repeat("steps", b.sdiv(num_steps, _int(UNROLLED)), state, steps)
        state = self._repeat("rest", b.srem(num_steps, _int(UNROLLED)), state, step)
        for target, value in zip(targets, state[3:], strict=True):
            b.store(value, target, align=4)

    def _step(
        self,
        sums: list[ir.Value],
        lines: tuple[ir.Value, ir.Value],
        x_rows: list[ir.Value],
        x_at: ir.Value,
    ) -> list[ir.Value]:
        b = self.b
        kind = V16I if self.pairs else V16F
        columns = [b.load(pointer(b, line, kind), align=4) for line in lines]
        wide = [emit_widened(b, c) for c in columns] if self.pairs and not self.row_pairs else []
        new = list(sums)
        for m, row in enumerate(x_rows):
            address = b.add(row, x_at)
            if self.row_pairs:
                pair = self._broadcast(address, I32)
                for v in range(2):
                    at = 2 * m + v
                    new[at] = emit_pair_products(self.context, b, new[at], columns[v], pair)
            elif self.pairs:
                for half in range(2):
                    value = self._broadcast(b.add(address, _int(4 * half)), F32)
                    for v in range(2):
                        new[2 * m + v] = emit_fma(b, new[2 * m + v], wide[v][half], value)
            else:
                value = self._broadcast(address, F32)
                for v in range(2):
                    new[2 * m + v] = emit_fma(b, new[2 * m + v], columns[v], value)
        return new

    def _broadcast(self, address: ir.Value, kind: ir.Type) -> ir.Value:
        return splat(self.b, self.b.load(pointer(self.b, address, kind), align=4), 16)

    def _repeat(
        self,
        name: str,
        count: ir.Value,
        state: list[ir.Value],
        body: Callable[[list[ir.Value]], list[ir.Value]],
    ) -> list[ir.Value]:
        """`state` after `body` was applied `count` times."""
        b = self.b
        before = b.block
        loop, after = b.append_basic_block(name), b.append_basic_block(f"{name}.end")
        b.cbranch(b.icmp_signed(">", count, _int(0)), loop, after)
        b.position_at_end(loop)
        index = b.phi(I64)
        index.add_incoming(_int(0), before)
        inside = [b.phi(value.type) for value in state]
        for phi, value in zip(inside, state, strict=True):
            phi.add_incoming(value, before)
        done = body(list(inside))
        index_next = b.add(index, _int(1))
        index.add_incoming(index_next, b.block)
        for phi, value in zip(inside, done, strict=True):
            phi.add_incoming(value, b.block)
        last = b.block
        b.cbranch(b.icmp_signed("<", index_next, count), loop, after)
        b.position_at_end(after)
        results = [b.phi(value.type) for value in state]
        for phi, skipped, value in zip(results, state, done, strict=True):
            phi.add_incoming(skipped, before)
            phi.add_incoming(value, last)
        return results


def _int(value: int) -> ir.Constant:
    return ir.Constant(I64, value)


ROW_COUNTS = (1, 2, 4, MAX_ROWS)
floats_1, floats_2, floats_4, floats_6 = (
    make_float_tile(rows, pairs=False, row_pairs=False) for rows in ROW_COUNTS
)
pairs_1, pairs_2, pairs_4, pairs_6 = (
    make_float_tile(rows, pairs=True, row_pairs=True) for rows in ROW_COUNTS
)
mixed_1, mixed_2, mixed_4, mixed_6 = (
    make_float_tile(rows, pairs=True, row_pairs=False) for rows in ROW_COUNTS
)


@njit(nogil=True)
def multiply_floats(rows, w_a, w_b, ldw, x, ldx, steps, y, ldy, ahead):
    """Rows and columns of float32; what 1, 2, 4 or 6 `rows` are computed, at least as many."""
    if rows > 4:
        floats_6(w_a, w_b, ldw, x, ldx, steps, y, ldy, ahead)
    elif rows > 2:
        floats_4(w_a, w_b, ldw, x, ldx, steps, y, ldy, ahead)
    elif rows == 2:
        floats_2(w_a, w_b, ldw, x, ldx, steps, y, ldy, ahead)
    else:
        floats_1(w_a, w_b, ldw, x, ldx, steps, y, ldy, ahead)


@njit(nogil=True)
def multiply_pairs(rows, w_a, w_b, ldw, x, ldx, steps, y, ldy, ahead):
    """The same of bfloat16."""
    if rows > 4:
        pairs_6(w_a, w_b, ldw, x, ldx, steps, y, ldy, ahead)
    elif rows > 2:
        pairs_4(w_a, w_b, ldw, x, ldx, steps, y, ldy, ahead)
    elif rows == 2:
        pairs_2(w_a, w_b, ldw, x, ldx, steps, y, ldy, ahead)
    else:
        pairs_1(w_a, w_b, ldw, x, ldx, steps, y, ldy, ahead)


@njit(nogil=True)
def multiply_mixed(rows, w_a, w_b, ldw, x, ldx, steps, y, ldy, ahead):
    """Rows of float32, columns of bfloat16."""
    if rows > 4:
        mixed_6(w_a, w_b, ldw, x, ldx, steps, y, ldy, ahead)
    elif rows > 2:
        mixed_4(w_a, w_b, ldw, x, ldx, steps, y, ldy, ahead)
    elif rows == 2:
        mixed_2(w_a, w_b, ldw, x, ldx, steps, y, ldy, ahead)
    else:
        mixed_1(w_a, w_b, ldw, x, ldx, steps, y, ldy, ahead)
