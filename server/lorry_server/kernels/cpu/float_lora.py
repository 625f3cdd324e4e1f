"""Shrink of float adapters: a row's input times the A of its adapter, rank by rank.

A is stored by ranks, so an adapter of rank 4 reads four rows and not a panel of 32. Ranks are filled
up to a multiple of four with rows of zeros, whose results are zeros.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.bfloat16 import add_pair_products, fma, narrow
from lorry_server.kernels.cpu.simd import (
    load_f32x16,
    load_i32,
    load_i32x16,
    load_i64,
    splat_f32,
    store_f32,
    store_u16,
    sum_f32,
)

RANK_STEP = 4  # ranks computed at once


@njit(nogil=True)
def store_shrunk(out, rank, total, is_bf16):
    if is_bf16:
        store_u16(out + 2 * rank, narrow(sum_f32(total)))
    else:
        store_f32(out + 4 * rank, sum_f32(total))


@njit(nogil=True)
def shrink_float_row(rec, step, row):
    """One row; those without an adapter are left as they are, for nobody reads them."""
    over_rows = load_i64(rec + t.ROWS) == t.LOGITS_ROWS
    adapters = load_i64(step + (t.ROW_ADAPTERS if over_rows else t.TOKEN_ADAPTERS))
    adapter = np.int64(load_i32(adapters + 4 * row))
    if adapter < 0:
        return
    is_bf16 = load_i64(rec + t.ELEMENT) == t.BFLOAT16
    row_bytes = load_i64(rec + t.LD_XQ)  # of A as well
    x = load_i64(rec + t.XQ) + row * row_bytes
    shrunk, num_slices = load_i64(rec + t.SHRUNK), load_i64(rec + t.NUM_SLICES)
    piece_bytes = 32 * load_i64(shrunk + t.SHRUNK_GROUPS) * (2 if is_bf16 else 4)
    out = load_i64(shrunk + t.SHRUNK_XQ) + row * piece_bytes * num_slices
    entry = load_i64(rec + t.LORA) + adapter * load_i64(rec + t.LORA_SLOT_BYTES)
    for piece in range(num_slices):
        part = entry + piece * (t.SLICE_WORDS * t.WORD_BYTES)
        for rank in range(0, load_i64(part + t.LORA_RANK), RANK_STEP):
            a = load_i64(part + t.LORA_A) + rank * row_bytes
            first = splat_f32(np.float32(0.0))
            second, third, fourth = first, first, first
            for k in range(0, row_bytes, 64):
                at = a + k
                if is_bf16:
                    pairs = load_i32x16(x + k)
                    first = add_pair_products(first, pairs, load_i32x16(at))
                    second = add_pair_products(second, pairs, load_i32x16(at + row_bytes))
                    third = add_pair_products(third, pairs, load_i32x16(at + 2 * row_bytes))
                    fourth = add_pair_products(fourth, pairs, load_i32x16(at + 3 * row_bytes))
                else:
                    values = load_f32x16(x + k)
                    first = fma(first, values, load_f32x16(at))
                    second = fma(second, values, load_f32x16(at + row_bytes))
                    third = fma(third, values, load_f32x16(at + 2 * row_bytes))
                    fourth = fma(fourth, values, load_f32x16(at + 3 * row_bytes))
            target = out + piece * piece_bytes
            store_shrunk(target, rank, first, is_bf16)
            store_shrunk(target, rank + 1, second, is_bf16)
            store_shrunk(target, rank + 2, third, is_bf16)
            store_shrunk(target, rank + 3, fourth, is_bf16)
