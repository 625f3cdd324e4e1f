"""Operations on single rows: embedding, norms, quantization."""

from __future__ import annotations

import numpy as np
from numba import njit

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.own_weight import own_weight
from lorry_server.kernels.cpu.quantize import norm_row, quantize_row
from lorry_server.kernels.cpu.simd import (
    load_f32,
    load_f32x16,
    load_i32,
    load_i64,
    load_u8,
    splat_f32,
    store_f32,
    store_f32x16,
)


@njit(nogil=True)
def embed_row(rec, step, row):
    """A token's row of the embedding: a table of floats, or the rows of a packed weight."""
    token = np.int64(load_i32(load_i64(step + t.TOKEN_IDS) + 4 * row))
    x = load_i64(rec + t.EMBED_X) + row * load_i64(rec + t.EMBED_LD_X)
    size = load_i64(rec + t.EMBED_SIZE)
    multiplier = load_f32(rec + t.EMBED_MULTIPLIER)
    table = load_i64(rec + t.EMBED_TABLE)
    own = embedding_change(rec, step, row, t.OWN_EMBEDDING)
    if own != 0:
        for k in range(size):
            store_f32(x + 4 * k, load_f32(own + 4 * k))
    elif table != 0:
        source = table + 4 * size * token
        for k in range(size):
            store_f32(x + 4 * k, load_f32(source + 4 * k))
    else:
        panel, column = token // 32, token % 32
        base = load_i64(rec + t.EMBED_W) + panel * load_i64(rec + t.EMBED_PANEL_BYTES) + 4 * column
        scale = load_f32(load_i64(rec + t.EMBED_SCALE) + 4 * token)
        zero_address = load_i64(rec + t.EMBED_ZERO)
        zero = np.float32(128.0)
        if zero_address != 0:  # holds what the zero point is beyond 128
            zero = load_f32(zero_address + 4 * token) + zero
        for k in range(size):
            q = load_u8(base + 128 * (k // 4) + k % 4)
            store_f32(x + 4 * k, (np.float32(q) - zero) * scale)
    change_embedding(rec, step, row, x)
    if multiplier != np.float32(1.0):
        for k in range(size):
            store_f32(x + 4 * k, load_f32(x + 4 * k) * multiplier)


@njit(nogil=True)
def embedding_change(rec, step, row, kind):
    """An address that the token's adapter brings, or 0."""
    if load_i64(step + t.HAS_ADAPTERS) == 0 or load_i64(rec + t.EMBED_CHANGES) == 0:
        return np.int64(0)
    return load_i64(load_i64(rec + t.EMBED_CHANGES) + t.EMBED_CHANGE_BYTES * row + kind)


@njit(nogil=True)
def change_embedding(rec, step, row, x):
    """x * scale + what is added, `kernels.adapted_rows` specifies; whether there was something to do."""
    size = load_i64(rec + t.EMBED_SIZE)
    scale = embedding_change(rec, step, row, t.EMBEDDING_SCALE)
    if scale != 0:
        for k in range(size):
            store_f32(x + 4 * k, load_f32(x + 4 * k) * load_f32(scale + 4 * k))
    added = embedding_change(rec, step, row, t.EMBEDDING_ADDED)
    if added != 0:
        for k in range(size):
            store_f32(x + 4 * k, load_f32(x + 4 * k) + load_f32(added + 4 * k))
    return scale != 0 or added != 0


@njit(nogil=True)
def input_row(rec, row):
    """The address of a row of floats."""
    return load_i64(rec + t.NORM_X) + row * load_i64(rec + t.NORM_LD_X)


@njit(nogil=True)
def gather_row(rec, step, row):
    """Copy the token's row whose logits are the step's `row`-th."""
    token = np.int64(load_i32(load_i64(step + t.LOGITS_ROW_IDS) + 4 * row))
    x = input_row(rec, token)
    out = load_i64(rec + t.NORM_ADD_TO) + row * load_i64(rec + t.NORM_LD_ADD_TO)
    for k in range(0, load_i64(rec + t.NORM_PADDED), 16):
        store_f32x16(out + 4 * k, load_f32x16(x + 4 * k))


@njit(nogil=True)
def norm_and_quantize_row(rec, step, row, scratch):
    x = input_row(rec, row)
    padded = load_i64(rec + t.NORM_PADDED)
    eps = np.float64(load_f32(rec + t.NORM_EPS))
    weight = own_weight(rec, step, row, t.NORM_WEIGHT, t.NORM_OWN)
    norm_row(x, weight, load_i64(rec + t.NORM_SIZE), padded, eps, scratch)
    quantize_to_record(rec, row, scratch)


@njit(nogil=True)
def quantize_to_record(rec, row, x):
    groups = load_i64(rec + t.NUM_GROUPS)
    quantize_row(
        x,
        groups,
        load_i64(rec + t.XQ) + row * load_i64(rec + t.LD_XQ),
        load_i64(rec + t.X_SCALE) + 4 * groups * row,
        load_i64(rec + t.X_START) + 4 * groups * row,
    )


@njit(nogil=True)
def add_normed_row(rec, step, row, scratch):
    """x += norm(y) * factor: the norms after attention and feed-forward that Gemma has."""
    y = load_i64(rec + t.NORM_X) + row * load_i64(rec + t.NORM_LD_X)
    padded = load_i64(rec + t.NORM_PADDED)
    eps = np.float64(load_f32(rec + t.NORM_EPS))
    weight = own_weight(rec, step, row, t.NORM_WEIGHT, t.NORM_OWN)
    norm_row(y, weight, load_i64(rec + t.NORM_SIZE), padded, eps, scratch)
    x = load_i64(rec + t.NORM_ADD_TO) + row * load_i64(rec + t.NORM_LD_ADD_TO)
    factor = load_f32(rec + t.NORM_FACTOR)
    for k in range(0, padded, 16):
        normed = load_f32x16(scratch + 4 * k)
        if factor != np.float32(1.0):
            normed = normed * splat_f32(factor)
        store_f32x16(x + 4 * k, load_f32x16(x + 4 * k) + normed)
