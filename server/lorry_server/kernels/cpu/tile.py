"""The inner tile of every integer product: a few rows times 32 columns, all in registers.

A tile multiplies MR rows of signed (or, for attention weights, unsigned) bytes with NV x 16 columns
of bytes, in groups of 32 inputs, as `kernels.affine_matmul` specifies: the 32 products of a group are
summed exactly, the sum becomes a float, is multiplied by the row's scale of that group and added to
the float sum. The code is generated for each MR, fully unrolled, because the sums must stay in
registers: MR x NV integer and as many float ones.

Columns are packed so that one 64-byte line holds 4 inputs of 16 columns, which is what one
instruction (`vpdpbusd`) multiplies: line `(k // 4) * NV + v`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.core.extending import intrinsic

from lorry_server.kernels.cpu.simd import (
    F32,
    I32,
    I64,
    emit_prefetch,
    llvm_function,
    pointer,
    splat,
)

V16I, V16F = ir.VectorType(I32, 16), ir.VectorType(F32, 16)
STEPS = 8  # of 4 inputs in a group
NOTHING = np.int64(0)  # a variable: numba compiles a function anew for every literal
LINES_AHEAD = (
    6  # of the next panel, with each group of this one: three tiles of rows ask for it all
)


def dot_vnni(
    builder: ir.IRBuilder, sums: ir.Value, unsigned: ir.Value, signed: ir.Value
) -> ir.Value:
    """sums + the dot products of 4 unsigned with 4 signed bytes in each lane; AVX512-VNNI."""
    function = llvm_function(builder, "llvm.x86.avx512.vpdpbusd.512", V16I, [V16I, V16I, V16I])
    return builder.call(function, [sums, unsigned, signed])


def dot_avx2(
    builder: ir.IRBuilder, sums: ir.Value, unsigned: ir.Value, signed: ir.Value
) -> ir.Value:
    """The same with 16-bit products, which no pair of bytes can overflow (`vpmaddubsw` saturates)."""
    bytes64, words64 = ir.VectorType(ir.IntType(8), 64), ir.VectorType(ir.IntType(16), 64)
    words16, ints8 = ir.VectorType(ir.IntType(16), 16), ir.VectorType(I32, 8)
    left = builder.zext(builder.bitcast(unsigned, bytes64), words64)
    right = builder.sext(builder.bitcast(signed, bytes64), words64)
    multiply = llvm_function(builder, "llvm.x86.avx2.pmadd.wd", ints8, [words16, words16])
    undefined = ir.Constant(words64, ir.Undefined)
    parts = []
    for start in range(0, 64, 16):
        mask = ir.Constant(ir.VectorType(I32, 16), list(range(start, start + 16)))
        parts.append(
            builder.call(
                multiply,
                [
                    builder.shuffle_vector(left, undefined, mask),
                    builder.shuffle_vector(right, undefined, mask),
                ],
            )
        )
    wide = ir.VectorType(I32, 16)
    join = ir.Constant(wide, list(range(16)))
    low = builder.shuffle_vector(parts[0], parts[1], join)
    high = builder.shuffle_vector(parts[2], parts[3], join)
    even = ir.Constant(wide, list(range(0, 32, 2)))
    odd = ir.Constant(wide, list(range(1, 32, 2)))
    pairs = builder.add(
        builder.shuffle_vector(low, high, even), builder.shuffle_vector(low, high, odd)
    )
    return builder.add(sums, pairs)


def make_tile(num_rows: int, num_vectors: int, *, num_ahead: int = 0) -> Any:
    """The tile for `num_rows` rows and `num_vectors` x 16 columns.

    Arguments of what is returned, all int64 and all addresses in bytes:
    `w` packed columns; `x`, `ldx` rows of bytes and their stride; `start`, `ld_start` int32 per row
    and group with which the sum of a group begins (the zero point's share); `scale`, `ld_scale`
    float32 per row and group; `num_groups`; `num_last` steps of 4 inputs in one more, shorter group
    (0: there is none); `y`, `ldy` where float32 sums are left; `ahead`, of which `num_ahead` lines
    are prefetched with each group.
    """

    @intrinsic
    def tile(
        typingctx: Any,
        w: Any,
        x: Any,
        ldx: Any,
        start: Any,
        ld_start: Any,
        scale: Any,
        ld_scale: Any,
        num_groups: Any,
        num_last: Any,
        y: Any,
        ldy: Any,
        ahead: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            emitter = Tile(context, builder, num_rows, num_vectors, rows_unsigned=False)
            emitter.emit(args, num_ahead)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 12), codegen

    return tile


class Tile:
    """Writes the code of one tile."""

    def __init__(
        self,
        context: Any,
        builder: ir.IRBuilder,
        rows: int,
        vectors: int,
        *,
        rows_unsigned: bool,
    ) -> None:
        self.b = builder
        self.rows = rows
        self.vectors = vectors
        self.rows_unsigned = rows_unsigned
        self.dot = dot_vnni if has_feature(context, "avx512vnni") else dot_avx2

    def at(self, base: ir.Value, offset: int | ir.Value) -> ir.Value:
        if isinstance(offset, int):
            offset = ir.Constant(I64, offset)
        return self.b.add(base, offset)

    def load(self, address: ir.Value, kind: ir.Type, align: int) -> ir.Value:
        return self.b.load(pointer(self.b, address, kind), align=align)

    def lines(self, w: ir.Value) -> list[ir.Value]:
        """The addresses of a step's lines, one for each vector."""
        return [self.at(w, 64 * v) for v in range(self.vectors)]

    def step(
        self, sums: list[ir.Value], lines: list[ir.Value], xs: list[ir.Value], offset: int
    ) -> list[ir.Value]:
        """One step of 4 inputs: a line of each vector times 4 bytes of each row."""
        return self.products(sums, [self.load(line, V16I, 64) for line in lines], xs, offset)

    def products(
        self, sums: list[ir.Value], columns: list[ir.Value], xs: list[ir.Value], offset: int
    ) -> list[ir.Value]:
        sums = list(sums)
        for m, x in enumerate(xs):
            four = splat(self.b, self.load(self.at(x, offset), I32, 4), 16)
            for v, column in enumerate(columns):
                operands = (four, column) if self.rows_unsigned else (column, four)
                at = m * self.vectors + v
                sums[at] = self.dot(self.b, sums[at], *operands)
        return sums

    def begin_group(self, start_rows: list[ir.Value], g: ir.Value) -> list[ir.Value]:
        """What the sums of group `g` begin with: the zero point's share of each row."""
        values = [splat(self.b, self.load(self.element(row, g), I32, 4), 16) for row in start_rows]
        return [value for value in values for _ in range(self.vectors)]

    def whole_group(
        self, sums: list[ir.Value], w: ir.Value, xs: list[ir.Value], g: ir.Value
    ) -> list[ir.Value]:
        """The products of all 32 inputs of group `g`."""
        line_bytes = 64 * self.vectors
        group = self.at(w, self.b.mul(g, ir.Constant(I64, STEPS * line_bytes)))
        for step in range(STEPS):
            sums = self.step(sums, self.lines(self.at(group, step * line_bytes)), xs, 4 * step)
        return sums

    def finish_group(
        self,
        totals: list[ir.Value],
        sums: list[ir.Value],
        scale_rows: list[ir.Value],
        g: ir.Value,
    ) -> list[ir.Value]:
        """The exact sums of group `g`, scaled and added to the float sums."""
        scales = [splat(self.b, self.load(self.element(row, g), F32, 4), 16) for row in scale_rows]
        new = []
        for index, (total, group) in enumerate(zip(totals, sums, strict=True)):
            product = self.b.fmul(self.b.sitofp(group, V16F), scales[index // self.vectors])
            new.append(self.b.fadd(total, product))
        return new

    def prefetch_group(self, ahead: ir.Value, num_ahead: int, g: ir.Value) -> None:
        """Ask for the lines that go with group `g`."""
        base = self.at(ahead, self.b.mul(g, ir.Constant(I64, 64 * num_ahead)))
        for line in range(num_ahead):
            emit_prefetch(self.b, self.at(base, 64 * line))

    def element(self, row: ir.Value, g: ir.Value) -> ir.Value:
        """The address of element `g` of a row of 4-byte numbers."""
        return self.at(row, self.b.mul(g, ir.Constant(I64, 4)))

    def emit(self, args: list[ir.Value | None], num_ahead: int) -> None:
        """The whole tile, for the arguments of `make_tile`; without `num_last` no shorter group."""
        b = self.b
        w, x, ldx, start, ld_start, scale, ld_scale, num_groups, num_last, y, ldy, ahead = args
        rows = range(self.rows)
        zero, one = ir.Constant(I64, 0), ir.Constant(I64, 1)
        x_rows = [self.at(x, b.mul(ldx, ir.Constant(I64, m))) for m in rows]
        start_rows = [self.at(start, b.mul(ld_start, ir.Constant(I64, m))) for m in rows]
        scale_rows = [self.at(scale, b.mul(ld_scale, ir.Constant(I64, m))) for m in rows]
        num = self.rows * self.vectors

        entry = b.block
        loop = b.append_basic_block("groups")
        after = b.append_basic_block("groups.end")
        nothing = [ir.Constant(V16F, None)] * num
        b.cbranch(b.icmp_signed(">", num_groups, zero), loop, after)
        b.position_at_end(loop)
        g = b.phi(I64)
        g.add_incoming(zero, entry)
        totals = [b.phi(V16F) for _ in range(num)]
        for total, none in zip(totals, nothing, strict=True):
            total.add_incoming(none, entry)
        x_offset = b.mul(g, ir.Constant(I64, 4 * STEPS))
        xs = [self.at(row, x_offset) for row in x_rows]
        self.prefetch_group(ahead, num_ahead, g)
        sums = self.begin_group(start_rows, g)
        sums = self.whole_group(sums, w, xs, g)
        new = self.finish_group(totals, sums, scale_rows, g)
        g_next = b.add(g, one)
        latch = b.block
        g.add_incoming(g_next, latch)
        for total, value in zip(totals, new, strict=True):
            total.add_incoming(value, latch)
        b.cbranch(b.icmp_signed("<", g_next, num_groups), loop, after)

        b.position_at_end(after)
        results = [b.phi(V16F) for _ in range(num)]
        for result, none, value in zip(results, nothing, new, strict=True):
            result.add_incoming(none, entry)
            result.add_incoming(value, latch)
        if num_last is not None:
            results = self._last_group(
                results, w, x_rows, start_rows, scale_rows, num_groups, num_last
            )
        for index, result in enumerate(results):
            m, v = divmod(index, self.vectors)
            row = self.at(y, b.mul(ldy, ir.Constant(I64, m)))
            b.store(result, pointer(b, self.at(row, 64 * v), V16F), align=4)

    def _last_group(
        self,
        totals: list[ir.Value],
        w: ir.Value,
        x_rows: list[ir.Value],
        start_rows: list[ir.Value],
        scale_rows: list[ir.Value],
        num_groups: ir.Value,
        num_last: ir.Value,
    ) -> list[ir.Value]:
        b = self.b
        line_bytes = 64 * self.vectors
        zero, one = ir.Constant(I64, 0), ir.Constant(I64, 1)
        before = b.block
        first = b.append_basic_block("last")
        loop = b.append_basic_block("last.steps")
        close = b.append_basic_block("last.close")
        after = b.append_basic_block("last.end")
        b.cbranch(b.icmp_signed(">", num_last, zero), first, after)
        b.position_at_end(first)
        begun = self.begin_group(start_rows, num_groups)
        w_first = self.at(w, b.mul(num_groups, ir.Constant(I64, STEPS * line_bytes)))
        x_first = b.mul(num_groups, ir.Constant(I64, 4 * STEPS))
        b.branch(loop)
        b.position_at_end(loop)
        k = b.phi(I64)
        k.add_incoming(zero, first)
        sums = [b.phi(V16I) for _ in begun]
        for total, value in zip(sums, begun, strict=True):
            total.add_incoming(value, first)
        x_offset = b.add(x_first, b.mul(k, ir.Constant(I64, 4)))
        xs = [self.at(row, x_offset) for row in x_rows]
        w_step = self.at(w_first, b.mul(k, ir.Constant(I64, line_bytes)))
        stepped = self.step(sums, self.lines(w_step), xs, 0)
        k_next = b.add(k, one)
        k.add_incoming(k_next, loop)
        for total, value in zip(sums, stepped, strict=True):
            total.add_incoming(value, loop)
        b.cbranch(b.icmp_signed("<", k_next, num_last), loop, close)
        b.position_at_end(close)
        finished = self.finish_group(totals, stepped, scale_rows, num_groups)
        b.branch(after)
        b.position_at_end(after)
        results = []
        for total, value in zip(totals, finished, strict=True):
            result = b.phi(V16F)
            result.add_incoming(total, before)
            result.add_incoming(value, close)
            results.append(result)
        return results


def has_feature(context: Any, name: str) -> bool:
    """Whether the code is compiled for a CPU that has the feature (numba may be told to do less)."""
    return f"+{name}" in context.codegen()._tm_features.split(",")


narrow_1, narrow_2, narrow_3, narrow_4, narrow_5, narrow_6 = (
    make_tile(rows, 1) for rows in range(1, 7)
)
tile_1, tile_2, tile_3, tile_4, tile_5, tile_6 = (make_tile(rows, 2) for rows in range(1, 7))
ahead_3, ahead_4, ahead_5, ahead_6 = (
    make_tile(rows, 2, num_ahead=LINES_AHEAD) for rows in range(3, 7)
)


@njit(nogil=True)
def multiply(rows, w, x, ldx, start, ld_start, scale, ld_scale, groups, last, y, ldy, ahead):
    """The tile of `rows` (1 to 6) rows and 32 columns; `ahead` 0 asks for nothing ahead."""
    if rows <= 2 or ahead == 0:
        multiply_only(rows, w, x, ldx, start, ld_start, scale, ld_scale, groups, last, y, ldy)
    elif rows == 6:
        ahead_6(w, x, ldx, start, ld_start, scale, ld_scale, groups, last, y, ldy, ahead)
    elif rows == 5:
        ahead_5(w, x, ldx, start, ld_start, scale, ld_scale, groups, last, y, ldy, ahead)
    elif rows == 4:
        ahead_4(w, x, ldx, start, ld_start, scale, ld_scale, groups, last, y, ldy, ahead)
    else:
        ahead_3(w, x, ldx, start, ld_start, scale, ld_scale, groups, last, y, ldy, ahead)


@njit(nogil=True)
def multiply_only(rows, w, x, ldx, start, ld_start, scale, ld_scale, groups, last, y, ldy):
    if rows == 6:
        tile_6(w, x, ldx, start, ld_start, scale, ld_scale, groups, last, y, ldy, w)
    elif rows == 5:
        tile_5(w, x, ldx, start, ld_start, scale, ld_scale, groups, last, y, ldy, w)
    elif rows == 4:
        tile_4(w, x, ldx, start, ld_start, scale, ld_scale, groups, last, y, ldy, w)
    elif rows == 3:
        tile_3(w, x, ldx, start, ld_start, scale, ld_scale, groups, last, y, ldy, w)
    elif rows == 2:
        tile_2(w, x, ldx, start, ld_start, scale, ld_scale, groups, last, y, ldy, w)
    else:
        tile_1(w, x, ldx, start, ld_start, scale, ld_scale, groups, last, y, ldy, w)


@njit(nogil=True)
def multiply_narrow(rows, w, x, ldx, start, ld_start, scale, ld_scale, groups, y, ldy):
    """The same with 16 columns."""
    if rows == 6:
        narrow_6(w, x, ldx, start, ld_start, scale, ld_scale, groups, 0, y, ldy, w)
    elif rows == 5:
        narrow_5(w, x, ldx, start, ld_start, scale, ld_scale, groups, 0, y, ldy, w)
    elif rows == 4:
        narrow_4(w, x, ldx, start, ld_start, scale, ld_scale, groups, 0, y, ldy, w)
    elif rows == 3:
        narrow_3(w, x, ldx, start, ld_start, scale, ld_scale, groups, 0, y, ldy, w)
    elif rows == 2:
        narrow_2(w, x, ldx, start, ld_start, scale, ld_scale, groups, 0, y, ldy, w)
    else:
        narrow_1(w, x, ldx, start, ld_start, scale, ld_scale, groups, 0, y, ldy, w)


def uses_vnni() -> bool:
    """Whether this process compiles for AVX512-VNNI."""
    from numba.core.registry import cpu_target

    return has_feature(cpu_target.target_context, "avx512vnni")
