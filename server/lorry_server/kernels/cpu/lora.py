"""Shrink: a row's quantized input times the A of its adapter, quantized again for B.

B follows where the base matmul has its results at hand (`matmul.add_adapters`). An adapter costs
its own ranks: a slice of a fused linear that it does not target is passed over.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.matmul import MAX_ROWS, num_rows
from lorry_server.kernels.cpu.quantize import quantize_group
from lorry_server.kernels.cpu.simd import load_f32x16, load_i32, load_i64, splat_f32
from lorry_server.kernels.cpu.tile import NOTHING, multiply, multiply_narrow

ROWS_PER_CHUNK_OF_MANY = 6
LD_SHRUNK = np.int64(128)  # bytes of scratch for a row: 32 ranks
FEW_ROWS = 32  # up to so many, each row is a chunk of its own


@njit(nogil=True)
def rows_per_shrink_chunk(rows):
    return 1 if rows <= FEW_ROWS else ROWS_PER_CHUNK_OF_MANY


@njit(nogil=True)
def shrink_chunk(rec, step, chunk, scratch):
    total = num_rows(rec, step)
    per_chunk = rows_per_shrink_chunk(total)
    first = chunk * per_chunk
    end = min(total, first + per_chunk)
    over_rows = load_i64(rec + t.ROWS) == t.LOGITS_ROWS
    adapters = load_i64(step + (t.ROW_ADAPTERS if over_rows else t.TOKEN_ADAPTERS))
    while first < end:
        adapter = load_i32(adapters + 4 * first)
        stop = first + 1
        while stop < end and load_i32(adapters + 4 * stop) == adapter:
            stop += 1
        if adapter >= 0:
            shrink_rows(rec, np.int64(adapter), first, stop - first, scratch)
        first = stop


@njit(nogil=True)
def shrink_rows(rec, adapter, first, rows, scratch):
    """At most `MAX_ROWS` rows of one adapter, 32 ranks at a time."""
    entry = load_i64(rec + t.LORA) + adapter * load_i64(rec + t.LORA_SLOT_BYTES)
    shrunk = load_i64(rec + t.SHRUNK)
    groups, lora_groups = load_i64(rec + t.NUM_GROUPS), load_i64(shrunk + t.SHRUNK_GROUPS)
    num_slices = load_i64(rec + t.NUM_SLICES)
    ld, ld_scale = load_i64(rec + t.LD_XQ), 4 * groups
    out_ld_scale = lora_groups * num_slices
    out_ld = 32 * out_ld_scale
    for piece in range(num_slices):
        part = entry + piece * (t.SLICE_WORDS * t.WORD_BYTES)
        rank = load_i64(part + t.LORA_RANK)
        for group in range((rank + 31) // 32):
            a = load_i64(part + t.LORA_A) + group * groups * 1024
            x = load_i64(rec + t.XQ) + first * ld
            start = load_i64(rec + t.X_START) + first * ld_scale
            scale = load_i64(rec + t.X_SCALE) + first * ld_scale
            is_narrow = rank - 32 * group <= 16
            if is_narrow:
                multiply_narrow(
                    rows, a, x, ld, start, ld_scale, scale, ld_scale, groups, scratch, LD_SHRUNK
                )
            else:
                multiply(
                    rows,
                    a,
                    x,
                    ld,
                    start,
                    ld_scale,
                    scale,
                    ld_scale,
                    groups,
                    NOTHING,
                    scratch,
                    LD_SHRUNK,
                    NOTHING,
                )
            a_scale = load_i64(part + t.LORA_A_SCALE) + 128 * group
            scale_a, scale_b = load_f32x16(a_scale), load_f32x16(a_scale + 64)
            for m in range(rows):
                low = load_f32x16(scratch + 128 * m) * scale_a
                high = splat_f32(np.float32(0.0))
                if not is_narrow:
                    high = load_f32x16(scratch + 128 * m + 64) * scale_b
                at = 4 * ((first + m) * out_ld_scale + piece * lora_groups + group)
                quantize_group(
                    low,
                    high,
                    load_i64(shrunk + t.SHRUNK_XQ)
                    + (first + m) * out_ld
                    + 32 * (piece * lora_groups + group),
                    load_i64(shrunk + t.SHRUNK_SCALE) + at,
                    load_i64(shrunk + t.SHRUNK_START) + at,
                )


assert MAX_ROWS >= ROWS_PER_CHUNK_OF_MANY
