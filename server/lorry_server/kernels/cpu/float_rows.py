"""Operations on single rows of a model of floats: embedding, norms, rounding to bfloat16."""

from __future__ import annotations

import numpy as np
from numba import njit

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.bfloat16 import settle, store_bf16, store_elements, widen
from lorry_server.kernels.cpu.own_weight import own_weight
from lorry_server.kernels.cpu.quantize import norm_row
from lorry_server.kernels.cpu.rows import change_embedding, embedding_change, input_row
from lorry_server.kernels.cpu.simd import (
    load_f32,
    load_f32x16,
    load_i32,
    load_i64,
    load_u16,
    splat_f32,
    store_f32,
    store_f32x16,
)


@njit(nogil=True)
def embed_float_row(rec, step, row):
    """A token's row of the embedding: of a table of elements, or of a packed weight."""
    token = np.int64(load_i32(load_i64(step + t.TOKEN_IDS) + 4 * row))
    x = load_i64(rec + t.EMBED_X) + row * load_i64(rec + t.EMBED_LD_X)
    size = load_i64(rec + t.EMBED_SIZE)
    is_bf16 = load_i64(rec + t.ELEMENT) == t.BFLOAT16
    table = load_i64(rec + t.EMBED_TABLE)
    panel = load_i64(rec + t.EMBED_W) + token // 32 * load_i64(rec + t.EMBED_PANEL_BYTES)
    column = panel + 4 * (token % 32)
    own = embedding_change(rec, step, row, t.OWN_EMBEDDING)
    if own != 0:
        table, token = own, np.int64(0)
    for k in range(size):
        if is_bf16:
            at = column + 128 * (k // 2) + 2 * (k % 2)
            if table != 0:
                at = table + 2 * (size * token + k)
            store_f32(x + 4 * k, widen(load_u16(at)))
        else:
            at = column + 128 * k
            if table != 0:
                at = table + 4 * (size * token + k)
            store_f32(x + 4 * k, load_f32(at))
    multiplier = load_f32(rec + t.EMBED_MULTIPLIER)
    rounds = load_i64(rec + t.ROUNDS) != 0
    if change_embedding(rec, step, row, x) and rounds:
        for k in range(0, (size + 15) // 16 * 16, 16):
            store_f32x16(x + 4 * k, settle(load_f32x16(x + 4 * k), True))
    if multiplier != np.float32(1.0):
        for k in range(0, (size + 15) // 16 * 16, 16):
            scaled = load_f32x16(x + 4 * k) * splat_f32(multiplier)
            store_f32x16(x + 4 * k, settle(scaled, rounds))


@njit(nogil=True)
def norm_float_row(rec, step, row, scratch):
    x = input_row(rec, row)
    padded = load_i64(rec + t.NORM_PADDED)
    eps = np.float64(load_f32(rec + t.NORM_EPS))
    weight = own_weight(rec, step, row, t.NORM_WEIGHT, t.NORM_OWN)
    norm_row(x, weight, load_i64(rec + t.NORM_SIZE), padded, eps, scratch)
    out = load_i64(rec + t.XQ) + row * load_i64(rec + t.LD_XQ)
    is_bf16 = load_i64(rec + t.ELEMENT) == t.BFLOAT16
    for k in range(0, padded, 16):
        store_elements(out, k, load_f32x16(scratch + 4 * k), is_bf16)


@njit(nogil=True)
def row_to_bf16(rec, step, row):
    x = input_row(rec, row)
    out = load_i64(rec + t.XQ) + row * load_i64(rec + t.LD_XQ)
    for k in range(0, 32 * load_i64(rec + t.NUM_GROUPS), 16):
        store_bf16(out + 2 * k, load_f32x16(x + 4 * k))


@njit(nogil=True)
def add_normed_float_row(rec, step, row, scratch):
    """x += norm(y) * factor, rounded at each step where activations are bfloat16."""
    y = load_i64(rec + t.NORM_X) + row * load_i64(rec + t.NORM_LD_X)
    padded = load_i64(rec + t.NORM_PADDED)
    eps = np.float64(load_f32(rec + t.NORM_EPS))
    weight = own_weight(rec, step, row, t.NORM_WEIGHT, t.NORM_OWN)
    norm_row(y, weight, load_i64(rec + t.NORM_SIZE), padded, eps, scratch)
    x = load_i64(rec + t.NORM_ADD_TO) + row * load_i64(rec + t.NORM_LD_ADD_TO)
    factor = load_f32(rec + t.NORM_FACTOR)
    rounds = load_i64(rec + t.ROUNDS) != 0
    for k in range(0, padded, 16):
        normed = settle(load_f32x16(scratch + 4 * k), rounds)
        if factor != np.float32(1.0):
            normed = settle(normed * splat_f32(factor), rounds)
        store_f32x16(x + 4 * k, settle(load_f32x16(x + 4 * k) + normed, rounds))
