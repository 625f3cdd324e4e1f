"""From the fused product to the cache: norms of heads, rotation, bytes of queries, keys and values."""

from __future__ import annotations

import numpy as np
from numba import njit

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.own_weight import own_weight
from lorry_server.kernels.cpu.quantize import (
    largest_magnitude,
    magnitude_bits,
    nearest,
    norm_row,
)
from lorry_server.kernels.cpu.simd import (
    load_f32,
    load_f32x16,
    load_i8,
    load_i32,
    load_i64,
    maximum_int,
    splat_f32,
    splat_i32,
    store_bytes,
    store_f32,
    store_f32x16,
    store_i8,
    store_i32,
    sum_int,
)


@njit(nogil=True)
def rotate(x, cos, sin, size):
    """Rotate the first `size` features, pairing feature i with i + size / 2."""
    half = size // 2
    i = 0
    while i + 16 <= half:
        a, b = load_f32x16(x + 4 * i), load_f32x16(x + 4 * (i + half))
        c, s = load_f32x16(cos + 4 * i), load_f32x16(sin + 4 * i)
        store_f32x16(x + 4 * i, a * c - b * s)
        store_f32x16(x + 4 * (i + half), b * c + a * s)
        i += 16
    while i < half:
        first, second = load_f32(x + 4 * i), load_f32(x + 4 * (i + half))
        c, s = load_f32(cos + 4 * i), load_f32(sin + 4 * i)
        store_f32(x + 4 * i, first * c - second * s)
        store_f32(x + 4 * (i + half), second * c + first * s)
        i += 1


@njit(nogil=True)
def copy_head(source, size, padded, target):
    """A head's floats with zeros after them up to `padded`."""
    whole = size // 16 * 16
    for k in range(0, whole, 16):
        store_f32x16(target + 4 * k, load_f32x16(source + 4 * k))
    for k in range(whole, padded):
        value = np.float32(0.0)
        if k < size:
            value = load_f32(source + 4 * k)
        store_f32(target + 4 * k, value)


@njit(nogil=True, error_model="numpy")
def quantize_head(x, padded, target):
    """A head to bytes with one scale; returns the scale and the sum of the bytes."""
    bits = splat_i32(np.int32(0))
    for k in range(0, padded, 16):
        bits = maximum_int(bits, magnitude_bits(load_f32x16(x + 4 * k)))
    most = largest_magnitude(bits)
    inverse = splat_f32(np.float32(127.0) / most)
    sums = splat_i32(np.int32(0))
    for k in range(0, padded, 16):
        q = nearest(load_f32x16(x + 4 * k) * inverse)
        sums = sums + q
        store_bytes(target + k, q)
    return most / np.float32(127.0), sum_int(sums)


@njit(nogil=True)
def prepare_head(rec, source, norm, position, scratch):
    """A head of queries or keys: copied, normed, rotated."""
    size, padded = load_i64(rec + t.HEAD_DIM), load_i64(rec + t.HEAD_PADDED)
    copy_head(source, size, padded, scratch)
    if norm != 0:
        eps = np.float64(load_f32(rec + t.HEAD_EPS))
        norm_row(scratch, norm, size, padded, eps, scratch)
    rotated = load_i64(rec + t.ROPE_SIZE)
    if rotated != 0:
        at = 2 * rotated * position
        rotate(scratch, load_i64(rec + t.COS) + at, load_i64(rec + t.SIN) + at, rotated)


@njit(nogil=True)
def keys_and_values_token(rec, step, token, scratch):
    """One token of the step: its queries to bytes, its keys and values to their slot."""
    qkv = load_i64(rec + t.QKV) + token * load_i64(rec + t.LD_QKV)
    position = np.int64(load_i32(load_i64(step + t.POSITIONS) + 4 * token))
    slot = np.int64(load_i32(load_i64(step + t.SLOTS) + 4 * token))
    heads, group = load_i64(rec + t.NUM_KV_HEADS), load_i64(rec + t.GROUP_SIZE)
    size, padded = load_i64(rec + t.HEAD_DIM), load_i64(rec + t.HEAD_PADDED)
    scale = load_f32(rec + t.ATTENTION_SCALE)
    total = load_i64(step + t.NUM_TOKENS)
    packed = scratch + 4 * padded
    q_norm = own_weight(rec, step, token, t.Q_NORM, t.Q_NORM_OWN)
    k_norm = own_weight(rec, step, token, t.K_NORM, t.K_NORM_OWN)
    q8, q8_scale, q8_start = (
        load_i64(rec + t.Q8),
        load_i64(rec + t.Q8_SCALE),
        load_i64(rec + t.Q8_START),
    )
    for head in range(heads):
        for member in range(group):
            source = qkv + load_i64(rec + t.Q_OFFSET) + 4 * size * (head * group + member)
            prepare_head(rec, source, q_norm, position, scratch)
            row = (head * total + token) * group + member
            step_size, summed = quantize_head(scratch, padded, q8 + row * padded)
            store_f32(q8_scale + 4 * row, step_size * scale)
            store_i32(q8_start + 4 * row, np.int32(-128) * summed)
        # A head of a block: its keys by 16 tokens and 4 dimensions, its values by 4 tokens.
        block_size = load_i64(step + t.BLOCK_SIZE)
        block, offset = slot // block_size, slot % block_size
        at = (block * heads + head) * block_size
        run, lane = offset // 16, offset % 16
        prepare_head(
            rec,
            qkv + load_i64(rec + t.K_OFFSET) + 4 * size * head,
            k_norm,
            position,
            scratch,
        )
        step_size, summed = quantize_head(scratch, padded, packed)
        store_f32(load_i64(rec + t.KEY_SCALES) + 4 * (at + offset), step_size)
        keys = load_i64(rec + t.KEYS) + (at + 16 * run) * padded + 4 * lane
        for k in range(0, padded, 4):
            # four signed bytes become unsigned by flipping their sign bits
            store_i32(keys + 16 * k, load_i32(packed + k) ^ np.int32(-2139062144))
        copy_head(qkv + load_i64(rec + t.V_OFFSET) + 4 * size * head, size, padded, scratch)
        step_size, summed = quantize_head(scratch, padded, packed)
        store_f32(load_i64(rec + t.VALUE_SCALES) + 4 * (at + offset), step_size)
        values = load_i64(rec + t.VALUES) + (at + offset // 4 * 4) * padded + offset % 4
        for k in range(padded):
            store_i8(values + 4 * k, load_i8(packed + k))
