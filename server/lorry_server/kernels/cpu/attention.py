"""Causal attention of the step's queries over int8 blocks; `kernels.paged_attention` specifies it.

A tile of up to six rows (query heads that share a key head, of one or more tokens of a sequence)
makes all its scores first, then their softmax, then the weighted values. So nothing is rescaled on
the way, and the result does not depend on how a prompt was cut.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.attention_tiles import (
    score_tile_1,
    score_tile_2,
    score_tile_3,
    score_tile_4,
    score_tile_5,
    score_tile_6,
    value_tile_1,
    value_tile_2,
    value_tile_3,
    value_tile_4,
    value_tile_5,
    value_tile_6,
)
from lorry_server.kernels.cpu.exp import exp, tanh
from lorry_server.kernels.cpu.quantize import largest_magnitude, magnitude_bits, nearest
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
    maximum_int,
    splat_f32,
    splat_f64,
    splat_i32,
    store_bytes,
    store_f32,
    store_f32x16,
    sum_f64,
    where_less,
)

MAX_ROWS = 6
GROUP = 32  # tokens whose weights share a scale


@njit(nogil=True)
def score(rows, keys_a, keys_b, q, ldq, start, scale, scale_a, scale_b, steps, y, ldy):
    if rows == 6:
        score_tile_6(keys_a, keys_b, q, ldq, start, scale, scale_a, scale_b, steps, y, ldy)
    elif rows == 5:
        score_tile_5(keys_a, keys_b, q, ldq, start, scale, scale_a, scale_b, steps, y, ldy)
    elif rows == 4:
        score_tile_4(keys_a, keys_b, q, ldq, start, scale, scale_a, scale_b, steps, y, ldy)
    elif rows == 3:
        score_tile_3(keys_a, keys_b, q, ldq, start, scale, scale_a, scale_b, steps, y, ldy)
    elif rows == 2:
        score_tile_2(keys_a, keys_b, q, ldq, start, scale, scale_a, scale_b, steps, y, ldy)
    else:
        score_tile_1(keys_a, keys_b, q, ldq, start, scale, scale_a, scale_b, steps, y, ldy)


@njit(nogil=True)
def weigh(rows, values_a, values_b, stride, p, ldp, scale, ld_scale, y, ldy):
    if rows == 6:
        value_tile_6(values_a, values_b, stride, p, ldp, scale, ld_scale, y, ldy)
    elif rows == 5:
        value_tile_5(values_a, values_b, stride, p, ldp, scale, ld_scale, y, ldy)
    elif rows == 4:
        value_tile_4(values_a, values_b, stride, p, ldp, scale, ld_scale, y, ldy)
    elif rows == 3:
        value_tile_3(values_a, values_b, stride, p, ldp, scale, ld_scale, y, ldy)
    elif rows == 2:
        value_tile_2(values_a, values_b, stride, p, ldp, scale, ld_scale, y, ldy)
    else:
        value_tile_1(values_a, values_b, stride, p, ldp, scale, ld_scale, y, ldy)


@njit(nogil=True)
def is_visible(index, first, end, value, hidden):
    """`value` in the lanes whose token is one of `first` to `end`, else `hidden`."""
    value = where_less(index, splat_i32(np.int32(end)), value, hidden)
    return where_less(index, splat_i32(np.int32(first)), hidden, value)


@njit(nogil=True, error_model="numpy")
def softmax_row(scores, value_scales, low, first, end, softcap, p, p_scale):
    """Scores of tokens `low` on to weights in bytes and a scale per group; returns their sum.

    Weights are multiplied with the scales of the values, and unseen tokens weigh nothing.
    """
    nothing = splat_f32(np.float32(0.0))
    never = splat_f32(np.float32(-np.inf))
    best = never
    for j in range(low, end, 16):
        at = scores + 4 * (j - low)
        values = load_f32x16(at)
        if softcap != np.float32(0.0):
            values = splat_f32(softcap) * tanh(values / splat_f32(softcap))
            store_f32x16(at, values)
        if j < first or j + 16 > end:
            values = is_visible(lanes() + splat_i32(np.int32(j)), first, end, values, never)
        best = maximum(values, best)
    largest = splat_f32(float_max(best))
    total_low, total_high = splat_f64(0.0), splat_f64(0.0)
    for j in range(low, end, GROUP):
        at = scores + 4 * (j - low)
        a, b = exp(load_f32x16(at) - largest), exp(load_f32x16(at + 64) - largest)
        index_a = lanes() + splat_i32(np.int32(j))
        index_b = index_a + splat_i32(np.int32(16))
        is_edge = j < first or j + GROUP > end
        if is_edge:
            a = is_visible(index_a, first, end, a, nothing)
            b = is_visible(index_b, first, end, b, nothing)
        total_low = (total_low + low_f64(a)) + low_f64(b)
        total_high = (total_high + high_f64(a)) + high_f64(b)
        a = a * load_f32x16(value_scales + 4 * (j - low))
        b = b * load_f32x16(value_scales + 4 * (j - low) + 64)
        if is_edge:
            a = is_visible(index_a, first, end, a, nothing)
            b = is_visible(index_b, first, end, b, nothing)
        most = largest_magnitude(maximum_int(magnitude_bits(a), magnitude_bits(b)))
        inverse = splat_f32(np.float32(255.0) / most)
        store_bytes(p + (j - low), nearest(a * inverse))
        store_bytes(p + (j - low) + 16, nearest(b * inverse))
        store_f32(p_scale + (j - low) // 8, most / np.float32(255.0))
    return np.float32(sum_f64(total_low + total_high))


@njit(nogil=True, error_model="numpy")
def attend_chunk(rec, step, chunk, scratch):
    """One key head and one item: some queries of one sequence."""
    heads = load_i64(rec + t.NUM_KV_HEADS)
    item, head = load_i64(step + t.ITEMS) + chunk // heads * t.ITEM_BYTES, chunk % heads
    sequence, first_token, num_tokens = load_i64(item), load_i64(item + 8), load_i64(item + 16)
    group = load_i64(rec + t.GROUP_SIZE)
    total = load_i64(step + t.NUM_TOKENS)
    num_rows = num_tokens * group
    num_tiles = (num_rows + MAX_ROWS - 1) // MAX_ROWS
    table = load_i64(step + t.TABLES) + 4 * sequence * load_i64(step + t.TABLE_STRIDE)
    positions = load_i64(step + t.POSITIONS) + 4 * first_token
    base = (head * total + first_token) * group
    for index in range(num_tiles):
        begin = num_rows * index // num_tiles
        end = num_rows * (index + 1) // num_tiles
        attend_tile(
            rec,
            step,
            head,
            table,
            positions,
            first_token,
            base + begin,
            begin,
            end - begin,
            scratch,
        )


@njit(nogil=True, error_model="numpy")
def attend_tile(rec, step, head, table, positions, first_token, q_row, begin, rows, scratch):
    heads, group = load_i64(rec + t.NUM_KV_HEADS), load_i64(rec + t.GROUP_SIZE)
    size, padded = load_i64(rec + t.HEAD_DIM), load_i64(rec + t.HEAD_PADDED)
    window, softcap = load_i64(rec + t.WINDOW), load_f32(rec + t.ATTENTION_SOFTCAP)
    block_size = load_i64(step + t.BLOCK_SIZE)
    length = load_i64(step + t.SCORES_LENGTH)  # floats of a row of scores
    keys, values = load_i64(rec + t.KEYS), load_i64(rec + t.VALUES)
    key_scales, value_scales = load_i64(rec + t.KEY_SCALES), load_i64(rec + t.VALUE_SCALES)
    end = np.int64(load_i32(positions + 4 * ((begin + rows - 1) // group))) + 1
    low = np.int64(0)
    if window > 0:
        low = max(np.int64(load_i32(positions + 4 * (begin // group))) + 1 - window, low)
        low = low // GROUP * GROUP

    scores = scratch
    weights = scores + 4 * length * MAX_ROWS
    weight_scales = weights + length * MAX_ROWS
    gathered = weight_scales + length // 8 * MAX_ROWS  # value scales of the tokens in order
    sums = gathered + 4 * length
    for j in range(low, end, GROUP):
        first_run = (load_i32(table + 4 * (j // block_size)) * heads + head) * block_size + (
            j % block_size
        )
        other = j + 16
        if other < end:
            second_run = (load_i32(table + 4 * (other // block_size)) * heads + head) * block_size
            second_run += other % block_size
        else:
            second_run = first_run  # hidden from all
        at = gathered + 4 * (j - low)
        store_f32x16(at, load_f32x16(value_scales + 4 * first_run))
        store_f32x16(at + 64, load_f32x16(value_scales + 4 * second_run))
        score(
            rows,
            keys + first_run * padded,
            keys + second_run * padded,
            load_i64(rec + t.Q8) + q_row * padded,
            padded,
            load_i64(rec + t.Q8_START) + 4 * q_row,
            load_i64(rec + t.Q8_SCALE) + 4 * q_row,
            key_scales + 4 * first_run,
            key_scales + 4 * second_run,
            padded // 4,
            scores + 4 * (j - low),
            4 * length,
        )
    for m in range(rows):
        visible_end = np.int64(load_i32(positions + 4 * ((begin + m) // group))) + 1
        visible_first = np.int64(0)
        if window > 0:
            visible_first = max(visible_end - window, visible_first)
        row_sum = softmax_row(
            scores + 4 * length * m,
            gathered,
            low,
            visible_first,
            visible_end,
            softcap,
            weights + length * m,
            weight_scales + length // 8 * m,
        )
        # later groups are another row's, and this one's bytes there are left from before
        for j in range(low + (visible_end - low + GROUP - 1) // GROUP * GROUP, end, GROUP):
            store_f32(weight_scales + length // 8 * m + (j - low) // 8, np.float32(0.0))
        store_f32(sums + 4 * m, row_sum)

    results = sums + 64
    for k in range(0, rows * padded, 16):
        store_f32x16(results + 4 * k, splat_f32(np.float32(0.0)))
    for j in range(low, end, GROUP):
        first_run = (load_i32(table + 4 * (j // block_size)) * heads + head) * block_size + (
            j % block_size
        )
        other = j + 16
        second_run = first_run
        if other < end:
            second_run = (load_i32(table + 4 * (other // block_size)) * heads + head) * block_size
            second_run += other % block_size
        for column in range(0, padded, 32):
            weigh(
                rows,
                values + first_run * padded + 4 * column,
                values + second_run * padded + 4 * column,
                4 * padded,
                weights + (j - low),
                length,
                weight_scales + (j - low) // 8,
                length // 8,
                results + 4 * column,
                4 * padded,
            )
    for m in range(rows):
        member = begin + m
        token = first_token + member // group
        out = load_i64(rec + t.ATTENDED) + token * load_i64(rec + t.LD_ATTENDED)
        out += 4 * size * (head * group + member % group)
        divisor = load_f32(sums + 4 * m)
        row = results + 4 * padded * m
        k = 0
        while k + 16 <= size:
            store_f32x16(out + 4 * k, load_f32x16(row + 4 * k) / splat_f32(divisor))
            k += 16
        while k < size:
            store_f32(out + 4 * k, load_f32(row + 4 * k) / divisor)
            k += 1
