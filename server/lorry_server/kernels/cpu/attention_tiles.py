"""The two inner tiles of attention over int8 blocks; `kernels.paged_attention` is the specification.

A group is 32 tokens in two runs of 16, which may lie in different blocks. Keys are stored as
`[head_dim / 4][16 tokens][4]` unsigned bytes (key + 128), values as `[4][head_dim / 16][16][4 tokens]`
signed bytes, so that both products read whole lines.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.extending import intrinsic

from lorry_server.kernels.cpu.simd import F32, I64, pointer, splat
from lorry_server.kernels.cpu.tile import V16F, V16I, Tile

UNROLLED = 8  # steps of a pass: heads are padded to multiples of 32 dimensions


def make_score_tile(num_rows: int) -> Any:
    """Scores of `num_rows` queries with the 32 keys of a group.

    Arguments, int64: `keys_a`, `keys_b` the two runs; `q`, `ldq` query bytes; `start` int32 per row
    (-128 times its sum of bytes); `scale` float32 per row; `scale_a`, `scale_b` float32 per key;
    `num_steps` of 4 dimensions, a multiple of 8; `y`, `ldy` 32 float32 per row.
    """

    @intrinsic
    def scores(
        typingctx: Any,
        keys_a: Any,
        keys_b: Any,
        q: Any,
        ldq: Any,
        start: Any,
        scale: Any,
        scale_a: Any,
        scale_b: Any,
        num_steps: Any,
        y: Any,
        ldy: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            _emit_scores(Tile(context, builder, num_rows, 2, rows_unsigned=False), args)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 11), codegen

    return scores


def _emit_scores(tile: Tile, args: list[ir.Value]) -> None:
    b = tile.b
    keys_a, keys_b, q, ldq, start, scale, scale_a, scale_b, num_steps, y, ldy = args
    rows = range(tile.rows)
    q_rows = [tile.at(q, b.mul(ldq, ir.Constant(I64, m))) for m in rows]
    begun = tile.begin_group([tile.at(start, 4 * m) for m in rows], ir.Constant(I64, 0))
    entry = b.block
    loop, after = b.append_basic_block("keys"), b.append_basic_block("keys.end")
    b.branch(loop)
    b.position_at_end(loop)
    k = b.phi(I64)
    k.add_incoming(ir.Constant(I64, 0), entry)
    sums = [b.phi(V16I) for _ in begun]
    for total, value in zip(sums, begun, strict=True):
        total.add_incoming(value, entry)
    line = b.mul(k, ir.Constant(I64, 64))
    offset = b.mul(k, ir.Constant(I64, 4))
    xs = [tile.at(row, offset) for row in q_rows]
    runs = [tile.at(keys_a, line), tile.at(keys_b, line)]
    stepped = list(sums)
    for step in range(UNROLLED):
        stepped = tile.step(stepped, [tile.at(run, 64 * step) for run in runs], xs, 4 * step)
    k_next = b.add(k, ir.Constant(I64, UNROLLED))
    k.add_incoming(k_next, loop)
    for total, value in zip(sums, stepped, strict=True):
        total.add_incoming(value, loop)
    b.cbranch(b.icmp_signed("<", k_next, num_steps), loop, after)
    b.position_at_end(after)
    key_scales = [tile.load(address, V16F, 4) for address in (scale_a, scale_b)]
    for m in rows:
        row_scale = splat(b, tile.load(tile.at(scale, 4 * m), F32, 4), 16)
        row = tile.at(y, b.mul(ldy, ir.Constant(I64, m)))
        for v in range(2):
            product = b.fmul(b.sitofp(stepped[2 * m + v], V16F), row_scale)
            score = b.fmul(product, key_scales[v])
            b.store(score, pointer(b, tile.at(row, 64 * v), V16F), align=4)


def make_value_tile(num_rows: int) -> Any:
    """Adds the values of a group of 32 tokens, weighted, to 32 dimensions of `num_rows` sums.

    Arguments, int64: `values_a`, `values_b` the two runs, at the dimensions wanted; `stride` bytes
    between steps of 4 tokens; `p`, `ldp` unsigned weights, 32 per row; `scale`, `ld_scale` float32 of
    each row's weights; `y`, `ldy` float32 sums, changed in place.
    """

    @intrinsic
    def values(
        typingctx: Any,
        values_a: Any,
        values_b: Any,
        stride: Any,
        p: Any,
        ldp: Any,
        scale: Any,
        ld_scale: Any,
        y: Any,
        ldy: Any,
    ) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            _emit_values(Tile(context, builder, num_rows, 2, rows_unsigned=True), args)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), codegen

    return values


def _emit_values(tile: Tile, args: list[ir.Value]) -> None:
    b = tile.b
    values_a, values_b, stride, p, ldp, scale, ld_scale, y, ldy = args
    rows = range(tile.rows)
    p_rows = [tile.at(p, b.mul(ldp, ir.Constant(I64, m))) for m in rows]
    sums = [ir.Constant(V16I, None)] * (2 * tile.rows)
    for step in range(8):
        run = values_a if step < 4 else values_b
        line = tile.at(run, b.mul(stride, ir.Constant(I64, step % 4)))
        sums = tile.step(sums, [line, tile.at(line, 64)], p_rows, 4 * step)
    for m in rows:
        row_scale = tile.load(tile.at(scale, b.mul(ld_scale, ir.Constant(I64, m))), F32, 4)
        row = tile.at(y, b.mul(ldy, ir.Constant(I64, m)))
        for v in range(2):
            target = pointer(b, tile.at(row, 64 * v), V16F)
            product = b.fmul(b.sitofp(sums[2 * m + v], V16F), splat(b, row_scale, 16))
            b.store(b.fadd(b.load(target, align=4), product), target, align=4)


score_tile_1, score_tile_2, score_tile_3, score_tile_4, score_tile_5, score_tile_6 = (
    make_score_tile(num_rows) for num_rows in range(1, 7)
)
value_tile_1, value_tile_2, value_tile_3, value_tile_4, value_tile_5, value_tile_6 = (
    make_value_tile(num_rows) for num_rows in range(1, 7)
)
