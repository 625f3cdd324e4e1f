"""The inner tile for int4 weights: half a byte each, a scale and a zero point per column and group.

    acc = acc + (float(d) * s_x) * s_w,   d = sum q xq - zero sum xq, exact

A line of 64 bytes holds 8 inputs of 16 columns: step s of a group in the low halves, step s + 4 in
the high ones.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import types
from numba.core.extending import intrinsic

from lorry_server.kernels.cpu.simd import F32, I8, I32, I64, splat
from lorry_server.kernels.cpu.tile import STEPS, V16F, V16I, Tile

V16B = ir.VectorType(I8, 16)
GROUP_BYTES = 512  # of a panel


def make_nibble_tile(num_rows: int) -> Any:
    """The tile for `num_rows` rows and 32 columns.

    Arguments as of `tile.make_tile`, without `num_last` and `ahead`, and then `w_scale`, float32, and `w_zero`,
    int8, both `[groups, 32]`. `start` is -128 times the sum of a row's bytes, as there.
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
        y: Any,
        ldy: Any,
        w_scale: Any,
        w_zero: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            emitter = _NibbleTile(context, builder, num_rows, w_scale=args[10], w_zero=args[11])
            emitter.emit([*args[:8], None, *args[8:10], args[0]], 0)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 12), codegen

    return tile


class _NibbleTile(Tile):
    def __init__(
        self,
        context: Any,
        builder: ir.IRBuilder,
        rows: int,
        *,
        w_scale: ir.Value,
        w_zero: ir.Value,
    ) -> None:
        super().__init__(context, builder, rows, 2, rows_unsigned=False)
        self._w_scale = w_scale
        self._w_zero = w_zero

    def begin_group(self, start_rows: list[ir.Value], g: ir.Value) -> list[ir.Value]:
        b = self.b
        zeros = self.at(self._w_zero, b.mul(g, ir.Constant(I64, 32)))
        zero = [b.sext(self.load(self.at(zeros, 16 * v), V16B, 1), V16I) for v in range(2)]
        values = []
        for row in start_rows:
            # -128 times the sum, shifted to minus the sum
            start = b.ashr(self.load(self.element(row, g), I32, 4), ir.Constant(I32, 7))
            values += [b.mul(splat(b, start, 16), zero[v]) for v in range(2)]
        return values

    def whole_group(
        self, sums: list[ir.Value], w: ir.Value, xs: list[ir.Value], g: ir.Value
    ) -> list[ir.Value]:
        b = self.b
        group = self.at(w, b.mul(g, ir.Constant(I64, GROUP_BYTES)))
        low_half = ir.Constant(V16I, [0x0F0F0F0F] * 16)
        four = ir.Constant(V16I, [4] * 16)
        for step in range(STEPS // 2):
            lines = [self.load(self.at(group, 128 * step + 64 * v), V16I, 64) for v in range(2)]
            sums = self.products(sums, [b.and_(line, low_half) for line in lines], xs, 4 * step)
            high = [b.and_(b.lshr(line, four), low_half) for line in lines]
            sums = self.products(sums, high, xs, 4 * (step + STEPS // 2))
        return sums

    def finish_group(
        self,
        totals: list[ir.Value],
        sums: list[ir.Value],
        scale_rows: list[ir.Value],
        g: ir.Value,
    ) -> list[ir.Value]:
        b = self.b
        at = self.at(self._w_scale, b.mul(g, ir.Constant(I64, 128)))
        w_scales = [self.load(self.at(at, 64 * v), V16F, 4) for v in range(2)]
        new = []
        for index, (total, group) in enumerate(zip(totals, sums, strict=True)):
            m, v = divmod(index, 2)
            scale = splat(b, self.load(self.element(scale_rows[m], g), F32, 4), 16)
            product = b.fmul(b.fmul(b.sitofp(group, V16F), scale), w_scales[v])
            new.append(b.fadd(total, product))
        return new


nibbles_1, nibbles_2, nibbles_3, nibbles_4, nibbles_5, nibbles_6 = (
    make_nibble_tile(rows) for rows in range(1, 7)
)


@njit(nogil=True)
def multiply_nibbles(
    rows, w, x, ldx, start, ld_start, scale, ld_scale, groups, y, ldy, w_scale, w_zero
):
    """The tile of `rows` (1 to 6) rows and 32 columns."""
    if rows == 6:
        nibbles_6(w, x, ldx, start, ld_start, scale, ld_scale, groups, y, ldy, w_scale, w_zero)
    elif rows == 5:
        nibbles_5(w, x, ldx, start, ld_start, scale, ld_scale, groups, y, ldy, w_scale, w_zero)
    elif rows == 4:
        nibbles_4(w, x, ldx, start, ld_start, scale, ld_scale, groups, y, ldy, w_scale, w_zero)
    elif rows == 3:
        nibbles_3(w, x, ldx, start, ld_start, scale, ld_scale, groups, y, ldy, w_scale, w_zero)
    elif rows == 2:
        nibbles_2(w, x, ldx, start, ld_start, scale, ld_scale, groups, y, ldy, w_scale, w_zero)
    else:
        nibbles_1(w, x, ldx, start, ld_start, scale, ld_scale, groups, y, ldy, w_scale, w_zero)
