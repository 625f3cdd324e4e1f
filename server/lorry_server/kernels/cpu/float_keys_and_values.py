"""From the fused product to a cache of floats: norms of heads, rotation, keys and values to their slot.

A run is 16 tokens of one key head. Keys lie in it as `[head_dim][16 tokens]`, values as
`[16 tokens][head_dim]`, so that scores and weighted values both read whole lines. Of bfloat16 a lane
holds a pair: of dimensions in the keys, of tokens in the values.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.bfloat16 import narrow, round_bf16, upper_halves
from lorry_server.kernels.cpu.keys_and_values import copy_head, rotate
from lorry_server.kernels.cpu.own_weight import own_weight
from lorry_server.kernels.cpu.quantize import norm_row
from lorry_server.kernels.cpu.simd import (
    load_f32,
    load_f32x16,
    load_i32,
    load_i64,
    store_f32,
    store_f32x16,
    store_i32x16,
    store_u16,
)

RUN = 16


@njit(nogil=True)
def round_head(x, padded):
    for k in range(0, padded, 16):
        store_f32x16(x + 4 * k, round_bf16(load_f32x16(x + 4 * k)))


@njit(nogil=True)
def prepare_float_head(rec, source, norm, position, target):
    """A head of queries or keys: copied, normed, rotated."""
    size, padded = load_i64(rec + t.HEAD_DIM), load_i64(rec + t.HEAD_PADDED)
    rounds = load_i64(rec + t.ROUNDS) != 0
    copy_head(source, size, padded, target)
    if norm != 0:
        norm_row(target, norm, size, padded, np.float64(load_f32(rec + t.HEAD_EPS)), target)
        if rounds:
            round_head(target, padded)
    rotated = load_i64(rec + t.ROPE_SIZE)
    if rotated != 0:
        at = 2 * rotated * position
        rotate(target, load_i64(rec + t.COS) + at, load_i64(rec + t.SIN) + at, rotated)
        if rounds:
            round_head(target, padded)


@njit(nogil=True)
def store_key(run, lane, x, padded, is_bf16):
    for k in range(padded):
        if is_bf16:
            store_u16(run + 64 * (k // 2) + 4 * lane + 2 * (k % 2), narrow(load_f32(x + 4 * k)))
        else:
            store_f32(run + 64 * k + 4 * lane, load_f32(x + 4 * k))


@njit(nogil=True)
def store_value(run, lane, x, padded, is_bf16, is_alone):
    """`is_alone` says that the pair's other token is in a later step, or never.

    It is then filled with zeros, because 0 times what another sequence left there may be NaN.
    """
    if not is_bf16:
        for k in range(0, padded, 16):
            store_f32x16(run + 4 * (padded * lane + k), load_f32x16(x + 4 * k))
        return
    pairs = run + 4 * padded * (lane // 2)
    if is_alone:
        for k in range(0, padded, 16):
            store_i32x16(pairs + 4 * k, upper_halves(round_bf16(load_f32x16(x + 4 * k))))
    else:
        for k in range(padded):
            store_u16(pairs + 4 * k + 2 * (lane % 2), narrow(load_f32(x + 4 * k)))


@njit(nogil=True)
def float_keys_and_values_token(rec, step, token, scratch):
    """One token of the step: its queries as rows of float32, its keys and values to their slot."""
    qkv = load_i64(rec + t.QKV) + token * load_i64(rec + t.LD_QKV)
    position = np.int64(load_i32(load_i64(step + t.POSITIONS) + 4 * token))
    slots = load_i64(step + t.SLOTS) + 4 * token
    slot = np.int64(load_i32(slots))
    total = load_i64(step + t.NUM_TOKENS)
    heads, group = load_i64(rec + t.NUM_KV_HEADS), load_i64(rec + t.GROUP_SIZE)
    size, padded = load_i64(rec + t.HEAD_DIM), load_i64(rec + t.HEAD_PADDED)
    is_bf16 = load_i64(rec + t.ELEMENT) == t.BFLOAT16
    head_bytes = padded * (2 if is_bf16 else 4)
    q_norm = own_weight(rec, step, token, t.Q_NORM, t.Q_NORM_OWN)
    k_norm = own_weight(rec, step, token, t.K_NORM, t.K_NORM_OWN)
    block_size = load_i64(step + t.BLOCK_SIZE)
    is_alone = slot % 2 == 0 and (token + 1 == total or np.int64(load_i32(slots + 4)) != slot + 1)
    for head in range(heads):
        for member in range(group):
            source = qkv + load_i64(rec + t.Q_OFFSET) + 4 * size * (head * group + member)
            row = (head * total + token) * group + member
            target = load_i64(rec + t.Q8) + 4 * padded * row
            prepare_float_head(rec, source, q_norm, position, target)
        at = (slot // block_size * heads + head) * block_size + slot % block_size // RUN * RUN
        lane = slot % block_size % RUN
        key = qkv + load_i64(rec + t.K_OFFSET) + 4 * size * head
        prepare_float_head(rec, key, k_norm, position, scratch)
        store_key(load_i64(rec + t.KEYS) + at * head_bytes, lane, scratch, padded, is_bf16)
        copy_head(qkv + load_i64(rec + t.V_OFFSET) + 4 * size * head, size, padded, scratch)
        run = load_i64(rec + t.VALUES) + at * head_bytes
        store_value(run, lane, scratch, padded, is_bf16, is_alone)
