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
from lorry_server.kernels.cpu.exp import exp_of_nonpositive, tanh
from lorry_server.kernels.cpu.quantize import largest_magnitude, shifted_nearest
from lorry_server.kernels.cpu.simd import (
    bits_of,
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
    prefetch_bytes,
    splat_f32,
    splat_f64,
    splat_i32,
    store_bytes,
    store_f32,
    store_f32x16,
    store_i64,
    sum_f64,
    where_less,
)

MAX_ROWS = 6
RUN = 16  # tokens that lie together
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
def store_weights(a, b, c, d, p, p_scale):
    """The weights of two groups to bytes and a scale each; none is negative."""
    most_ab = largest_magnitude(maximum_int(bits_of(a), bits_of(b)))
    most_cd = largest_magnitude(maximum_int(bits_of(c), bits_of(d)))
    inverse_ab = splat_f32(np.float32(255.0) / most_ab)
    inverse_cd = splat_f32(np.float32(255.0) / most_cd)
    store_bytes(p, shifted_nearest(a * inverse_ab))
    store_bytes(p + 16, shifted_nearest(b * inverse_ab))
    store_bytes(p + 32, shifted_nearest(c * inverse_cd))
    store_bytes(p + 48, shifted_nearest(d * inverse_cd))
    store_f32(p_scale, most_ab / np.float32(255.0))
    store_f32(p_scale + 4, most_cd / np.float32(255.0))


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
    j = low
    while j < end:
        at = scores + 4 * (j - low)
        if j >= first and j + 2 * GROUP <= end:
            # Two groups at once: one alone is a chain of operations that leaves the core waiting.
            a = exp_of_nonpositive(load_f32x16(at) - largest)
            b = exp_of_nonpositive(load_f32x16(at + 64) - largest)
            c = exp_of_nonpositive(load_f32x16(at + 128) - largest)
            d = exp_of_nonpositive(load_f32x16(at + 192) - largest)
            total_low = total_low + ((low_f64(a) + low_f64(b)) + (low_f64(c) + low_f64(d)))
            total_high = total_high + ((high_f64(a) + high_f64(b)) + (high_f64(c) + high_f64(d)))
            of_group = value_scales + 4 * (j - low)
            a = a * load_f32x16(of_group)
            b = b * load_f32x16(of_group + 64)
            c = c * load_f32x16(of_group + 128)
            d = d * load_f32x16(of_group + 192)
            store_weights(a, b, c, d, p + (j - low), p_scale + (j - low) // 8)
            j += 2 * GROUP
            continue
        a = exp_of_nonpositive(load_f32x16(at) - largest)
        b = exp_of_nonpositive(load_f32x16(at + 64) - largest)
        index_a = lanes() + splat_i32(np.int32(j))
        index_b = index_a + splat_i32(np.int32(16))
        a = is_visible(index_a, first, end, a, nothing)
        b = is_visible(index_b, first, end, b, nothing)
        total_low = (total_low + low_f64(a)) + low_f64(b)
        total_high = (total_high + high_f64(a)) + high_f64(b)
        a = a * load_f32x16(value_scales + 4 * (j - low))
        b = b * load_f32x16(value_scales + 4 * (j - low) + 64)
        a = is_visible(index_a, first, end, a, nothing)
        b = is_visible(index_b, first, end, b, nothing)
        most = largest_magnitude(maximum_int(bits_of(a), bits_of(b)))  # none is negative
        inverse = splat_f32(np.float32(255.0) / most)
        store_bytes(p + (j - low), shifted_nearest(a * inverse))
        store_bytes(p + (j - low) + 16, shifted_nearest(b * inverse))
        store_f32(p_scale + (j - low) // 8, most / np.float32(255.0))
        j += GROUP
    return np.float32(sum_f64(total_low + total_high))


@njit(nogil=True)
def list_runs(rec, step, head, table, low, end, scratch):
    """Where each run of 16 tokens lies (its first slot of the head), and the values' scales in order.

    A last run that has no tokens stands for itself by the one before it: all of it is hidden.
    """
    heads, block_size = load_i64(rec + t.NUM_KV_HEADS), load_i64(step + t.BLOCK_SIZE)
    value_scales, keys = load_i64(rec + t.VALUE_SCALES), load_i64(rec + t.KEYS)
    padded = load_i64(rec + t.HEAD_PADDED)
    scales = scratch + runs_bytes(step)
    run = np.int64(0)
    for j in range(low, (end + GROUP - 1) // GROUP * GROUP, RUN):
        if j < end:
            block = np.int64(load_i32(table + 4 * (j // block_size)))
            run = (block * heads + head) * block_size + j % block_size
            prefetch_bytes(keys + run * padded, RUN * padded)
        at = j - low
        store_i64(scratch + at // 2, run)
        store_f32x16(scales + 4 * at, load_f32x16(value_scales + 4 * run))


@njit(nogil=True)
def runs_bytes(step):
    return load_i64(step + t.SCORES_LENGTH) // 2


@njit(nogil=True, error_model="numpy")
def attend_chunk(rec, step, chunk, scratch):
    """One key head and one item: some queries of one sequence."""
    heads = load_i64(rec + t.NUM_KV_HEADS)
    item, head = load_i64(step + t.ITEMS) + chunk // heads * t.ITEM_BYTES, chunk % heads
    sequence, first_token, num_tokens = load_i64(item), load_i64(item + 8), load_i64(item + 16)
    group = load_i64(rec + t.GROUP_SIZE)
    window = load_i64(rec + t.WINDOW)
    total = load_i64(step + t.NUM_TOKENS)
    num_rows = num_tokens * group
    num_tiles = (num_rows + MAX_ROWS - 1) // MAX_ROWS
    table = load_i64(step + t.TABLES) + 4 * sequence * load_i64(step + t.TABLE_STRIDE)
    positions = load_i64(step + t.POSITIONS) + 4 * first_token
    low = np.int64(0)
    if window > 0:
        low = max(np.int64(load_i32(positions)) + 1 - window, low) // GROUP * GROUP
    end = np.int64(load_i32(positions + 4 * (num_tokens - 1))) + 1
    list_runs(rec, step, head, table, low, end, scratch)
    base = (head * total + first_token) * group
    for index in range(num_tiles):
        begin = num_rows * index // num_tiles
        rows = num_rows * (index + 1) // num_tiles - begin
        attend_tile(
            rec, step, head, positions, first_token, base + begin, begin, rows, low, scratch
        )


@njit(nogil=True, error_model="numpy")
def attend_tile(rec, step, head, positions, first_token, q_row, begin, rows, low, scratch):
    """Up to six rows over the runs from token `low` on."""
    group = load_i64(rec + t.GROUP_SIZE)
    padded = load_i64(rec + t.HEAD_PADDED)
    window, softcap = load_i64(rec + t.WINDOW), load_f32(rec + t.ATTENTION_SOFTCAP)
    length = load_i64(step + t.SCORES_LENGTH)  # floats of a row of scores
    keys, values = load_i64(rec + t.KEYS), load_i64(rec + t.VALUES)
    key_scales = load_i64(rec + t.KEY_SCALES)
    end = np.int64(load_i32(positions + 4 * ((begin + rows - 1) // group))) + 1

    runs = scratch
    value_scales = runs + runs_bytes(step)
    scores = value_scales + 4 * length
    weights = scores + 4 * length * MAX_ROWS
    weight_scales = weights + length * MAX_ROWS
    sums = weight_scales + length // 8 * MAX_ROWS
    results = sums + 64
    q = load_i64(rec + t.Q8) + q_row * padded
    q_start, q_scale = (
        load_i64(rec + t.Q8_START) + 4 * q_row,
        load_i64(rec + t.Q8_SCALE) + 4 * q_row,
    )
    is_first = begin == 0  # the others find keys and values in the cache
    for j in range(low, end, GROUP):
        at = j - low
        run_a, run_b = load_i64(runs + at // 2), load_i64(runs + at // 2 + 8)
        if is_first:
            prefetch_bytes(values + run_a * padded, RUN * padded)
            prefetch_bytes(values + run_b * padded, RUN * padded)
        score(
            rows,
            keys + run_a * padded,
            keys + run_b * padded,
            q,
            padded,
            q_start,
            q_scale,
            key_scales + 4 * run_a,
            key_scales + 4 * run_b,
            padded // 4,
            scores + 4 * at,
            4 * length,
        )
    for m in range(rows):
        visible_end = np.int64(load_i32(positions + 4 * ((begin + m) // group))) + 1
        visible_first = np.int64(0)
        if window > 0:
            visible_first = max(visible_end - window, visible_first)
        row_scales = weight_scales + length // 8 * m
        row_sum = softmax_row(
            scores + 4 * length * m,
            value_scales,
            low,
            visible_first,
            visible_end,
            softcap,
            weights + length * m,
            row_scales,
        )
        # groups that only later rows see: this row's bytes there are left from another tile
        for j in range(low + (visible_end - low + GROUP - 1) // GROUP * GROUP, end, GROUP):
            store_f32(row_scales + (j - low) // 8, np.float32(0.0))
        store_f32(sums + 4 * m, row_sum)
    for k in range(0, rows * padded, 16):
        store_f32x16(results + 4 * k, splat_f32(np.float32(0.0)))
    for j in range(low, end, GROUP):
        at = j - low
        run_a, run_b = load_i64(runs + at // 2), load_i64(runs + at // 2 + 8)
        for column in range(0, padded, 32):
            weigh(
                rows,
                values + run_a * padded + 4 * column,
                values + run_b * padded + 4 * column,
                4 * padded,
                weights + at,
                length,
                weight_scales + at // 8,
                length // 8,
                results + 4 * column,
                4 * padded,
            )
    store_results(rec, results, sums, head, first_token, begin, rows)


@njit(nogil=True, error_model="numpy")
def store_results(rec, results, sums, head, first_token, begin, rows):
    """Divide by the sums of the weights, to where the output product reads."""
    group = load_i64(rec + t.GROUP_SIZE)
    size, padded = load_i64(rec + t.HEAD_DIM), load_i64(rec + t.HEAD_PADDED)
    for m in range(rows):
        member = begin + m
        out = load_i64(rec + t.ATTENDED)
        out += (first_token + member // group) * load_i64(rec + t.LD_ATTENDED)
        out += 4 * size * (head * group + member % group)
        divisor = load_f32(sums + 4 * m)
        row = results + 4 * padded * m
        whole = size // 16 * 16
        for k in range(0, whole, 16):
            store_f32x16(out + 4 * k, load_f32x16(row + 4 * k) / splat_f32(divisor))
        for k in range(whole, size):
            store_f32(out + 4 * k, load_f32(row + 4 * k) / divisor)
