"""Causal attention of the step's queries over blocks of floats; `kernels.paged_attention` specifies it.

A tile of up to six rows (query heads that share a key head, of one or more tokens of a sequence)
makes all its scores first, then their softmax, then the weighted values. So nothing is rescaled on
the way, and the result does not depend on how a prompt was cut. All sums are float32; keys and
values of bfloat16 are widened as they are read.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.attention import is_visible
from lorry_server.kernels.cpu.exp import exp, tanh
from lorry_server.kernels.cpu.float_tile import (
    LINE_BYTES,
    MAX_ROWS,
    multiply_floats,
    multiply_mixed,
)
from lorry_server.kernels.cpu.simd import (
    float_max,
    high_f64,
    lanes,
    load_f32,
    load_f32x16,
    load_i32,
    load_i64,
    low_f64,
    maximum,
    splat_f32,
    splat_f64,
    splat_i32,
    store_f32,
    store_f32x16,
    sum_f64,
)

RUN = 16


@njit(nogil=True)
def run_of(step, table, token, heads, head):
    """The number of the 16-token run that holds `token` of a sequence."""
    block_size = load_i64(step + t.BLOCK_SIZE)
    block = np.int64(load_i32(table + 4 * (token // block_size)))
    return ((block * heads + head) * block_size + token % block_size) // RUN


@njit(nogil=True)
def attend_float_chunk(rec, step, chunk, scratch):
    """One key head and one item: some queries of one sequence."""
    heads = load_i64(rec + t.NUM_KV_HEADS)
    item, head = load_i64(step + t.ITEMS) + chunk // heads * t.ITEM_BYTES, chunk % heads
    sequence, first_token = load_i64(item), load_i64(item + 8)
    group = load_i64(rec + t.GROUP_SIZE)
    num_rows = load_i64(item + 16) * group
    num_tiles = (num_rows + MAX_ROWS - 1) // MAX_ROWS
    table = load_i64(step + t.TABLES) + 4 * sequence * load_i64(step + t.TABLE_STRIDE)
    q_row = (head * load_i64(step + t.NUM_TOKENS) + first_token) * group
    q = load_i64(rec + t.Q8) + 4 * q_row * load_i64(rec + t.HEAD_PADDED)
    for index in range(num_tiles):
        begin = num_rows * index // num_tiles
        rows = num_rows * (index + 1) // num_tiles - begin
        attend_float_tile(rec, step, head, table, first_token, q, begin, rows, scratch)


@njit(nogil=True)
def attend_float_tile(rec, step, head, table, first_token, q, begin, rows, scratch):
    """Rows `begin` on of an item, whose queries begin at `q`."""
    group, window = load_i64(rec + t.GROUP_SIZE), load_i64(rec + t.WINDOW)
    length = load_i64(step + t.SCORES_LENGTH)  # floats of a row of scores
    positions = load_i64(step + t.POSITIONS) + 4 * first_token
    end = np.int64(load_i32(positions + 4 * ((begin + rows - 1) // group))) + 1
    low = np.int64(0)
    if window > 0:
        low = max(np.int64(load_i32(positions + 4 * (begin // group))) + 1 - window, low)
        low = low // (2 * RUN) * (2 * RUN)
    sums, results = scratch + 4 * length * MAX_ROWS, scratch + 4 * length * MAX_ROWS + 64
    q += 4 * begin * load_i64(rec + t.HEAD_PADDED)
    make_scores(rec, step, head, table, q, rows, low, end, scratch)
    for m in range(rows):
        visible_end = np.int64(load_i32(positions + 4 * ((begin + m) // group))) + 1
        first = max(visible_end - window, np.int64(0)) if window > 0 else np.int64(0)
        total = softmax_float_row(rec, scratch + 4 * length * m, low, first, visible_end, end)
        store_f32(sums + 4 * m, total)
    add_values(rec, step, head, table, rows, low, end, scratch, results)
    store_attended(rec, head, first_token, begin, rows, results, sums)


@njit(nogil=True)
def make_scores(rec, step, head, table, q, rows, low, end, scores):
    """Unscaled scores of tokens `low` to `end`, two runs at a time."""
    padded, length = load_i64(rec + t.HEAD_PADDED), load_i64(step + t.SCORES_LENGTH)
    heads, keys = load_i64(rec + t.NUM_KV_HEADS), load_i64(rec + t.KEYS)
    is_bf16 = load_i64(rec + t.ELEMENT) == t.BFLOAT16
    run_bytes = RUN * padded * (2 if is_bf16 else 4)
    nothing = splat_f32(np.float32(0.0))
    for j in range(low, end, 2 * RUN):
        a = keys + run_of(step, table, j, heads, head) * run_bytes
        b = a  # where it is hidden from all
        if j + RUN < end:
            b = keys + run_of(step, table, j + RUN, heads, head) * run_bytes
        y = scores + 4 * (j - low)
        for m in range(min(rows + 1, MAX_ROWS)):
            store_f32x16(y + 4 * length * m, nothing)
            store_f32x16(y + 4 * length * m + 64, nothing)
        if is_bf16:
            multiply_mixed(rows, a, b, LINE_BYTES, q, 4 * padded, padded // 2, y, 4 * length, a)
        else:
            multiply_floats(rows, a, b, LINE_BYTES, q, 4 * padded, padded, y, 4 * length, a)


@njit(nogil=True, error_model="numpy")
def softmax_float_row(rec, scores, low, first, visible_end, end):
    """Scores of tokens `low` to `end` to weights, 0 where unseen; returns the weights' sum."""
    scale, softcap = load_f32(rec + t.ATTENTION_SCALE), load_f32(rec + t.ATTENTION_SOFTCAP)
    nothing = splat_f32(np.float32(0.0))
    never = splat_f32(np.float32(-np.inf))
    best = never
    for j in range(low, visible_end, RUN):
        at = scores + 4 * (j - low)
        values = load_f32x16(at) * splat_f32(scale)
        if softcap != np.float32(0.0):
            values = splat_f32(softcap) * tanh(values / splat_f32(softcap))
        store_f32x16(at, values)
        if j < first or j + RUN > visible_end:
            index = lanes() + splat_i32(np.int32(j))
            values = is_visible(index, first, visible_end, values, never)
        best = maximum(values, best)
    largest = splat_f32(float_max(best))
    total_low, total_high = splat_f64(0.0), splat_f64(0.0)
    for j in range(low, visible_end, RUN):
        at = scores + 4 * (j - low)
        weights = exp(load_f32x16(at) - largest)
        if j < first or j + RUN > visible_end:
            index = lanes() + splat_i32(np.int32(j))
            weights = is_visible(index, first, visible_end, weights, nothing)
        total_low, total_high = total_low + low_f64(weights), total_high + high_f64(weights)
        store_f32x16(at, weights)
    for j in range(low + (visible_end - low + RUN - 1) // RUN * RUN, end, RUN):
        store_f32x16(scores + 4 * (j - low), nothing)
    return np.float32(sum_f64(total_low + total_high))


@njit(nogil=True)
def add_values(rec, step, head, table, rows, low, end, weights, results):
    """Sums of the values of tokens `low` to `end` by each row's weights."""
    padded, length = load_i64(rec + t.HEAD_PADDED), load_i64(step + t.SCORES_LENGTH)
    heads, values = load_i64(rec + t.NUM_KV_HEADS), load_i64(rec + t.VALUES)
    is_bf16 = load_i64(rec + t.ELEMENT) == t.BFLOAT16
    run_bytes = RUN * padded * (2 if is_bf16 else 4)
    for k in range(0, min(rows + 1, MAX_ROWS) * padded, 16):
        store_f32x16(results + 4 * k, splat_f32(np.float32(0.0)))
    for j in range(low, end, RUN):
        run = values + run_of(step, table, j, heads, head) * run_bytes
        num_tokens = min(end - j, np.int64(RUN))  # what lies after them may be another's
        p = weights + 4 * (j - low)
        for column in range(0, 4 * padded, 128):
            a, y = run + column, results + column
            if is_bf16:
                steps = (num_tokens + 1) // 2
                multiply_mixed(rows, a, a + 64, 4 * padded, p, 4 * length, steps, y, 4 * padded, a)
            else:
                multiply_floats(
                    rows, a, a + 64, 4 * padded, p, 4 * length, num_tokens, y, 4 * padded, a
                )


@njit(nogil=True, error_model="numpy")
def store_attended(rec, head, first_token, begin, rows, results, sums):
    group, size = load_i64(rec + t.GROUP_SIZE), load_i64(rec + t.HEAD_DIM)
    padded = load_i64(rec + t.HEAD_PADDED)
    for m in range(rows):
        member = begin + m
        token = first_token + member // group
        out = load_i64(rec + t.ATTENDED) + token * load_i64(rec + t.LD_ATTENDED)
        out += 4 * size * (head * group + member % group)
        divisor = load_f32(sums + 4 * m)
        row = results + 4 * padded * m
        whole = size // 16 * 16
        for k in range(0, whole, 16):
            store_f32x16(out + 4 * k, load_f32x16(row + 4 * k) / splat_f32(divisor))
        for k in range(whole, size):
            store_f32(out + 4 * k, load_f32(row + 4 * k) / divisor)
