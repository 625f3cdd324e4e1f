"""Sampling of a row: a token, its logprob and the best alternatives.

`runner.sampler` is the specification: statuses and logprobs have its bits, and so have penalties,
biases and filters. Noise is the only thing that libraries make: its float32 values are those of a
float64 logarithm, and where two logarithms round differently, which is rarer than once in 10^7
numbers, a token would differ only if two scores were equal but for that rounding.

A row that wants its likeliest token and nothing more costs one pass over its logits.
"""

from __future__ import annotations

import numpy as np
from numba import cfunc, njit
from numba.core import types

from lorry_server.kernels.cpu import logits_block as b
from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.argmax import first_of, largest, largest_finite
from lorry_server.kernels.cpu.best_tokens import find_best_tokens
from lorry_server.kernels.cpu.filters import keep_largest, keep_likely, keep_typical
from lorry_server.kernels.cpu.masses import log_of_mass, total_mass
from lorry_server.kernels.cpu.noise import draw, row_counter
from lorry_server.kernels.cpu.penalties import add_biases, penalise
from lorry_server.kernels.cpu.simd import (
    load_f32,
    load_f32x16,
    load_i32,
    load_i64,
    splat_f32,
    store_f32,
    store_f32x16,
    store_i32,
)

OK, NON_FINITE = np.int32(0), np.int32(1)  # as `engine.plan` has them


@njit(nogil=True)
def int_of(block, column, row):
    return np.int64(load_i32(load_i64(block + column) + 4 * row))


@njit(nogil=True)
def float_of(block, column, row):
    return load_f32(load_i64(block + column) + 4 * row)


@njit(nogil=True)
def copy_row(x, size, padded, values):
    """Copy a row and fill it up with -inf. What is read reaches to `padded`."""
    for k in range(0, padded, 16):
        store_f32x16(values + 4 * k, load_f32x16(x + 4 * k))
    for k in range(size, padded):
        store_f32(values + 4 * k, np.float32(-np.inf))


@njit(nogil=True)
def give_logprobs(block, row, values, size, padded, top, token, num_top):
    """The logprob of `token` and those of the `num_top` likeliest, of a row of logits."""
    log_total = log_of_mass(total_mass(values, padded, top))
    best = np.float64(top)
    out = load_i64(block + b.OUT_LOGPROBS) + 4 * row
    logit = np.float64(load_f32(values + 4 * token))
    store_f32(out, np.float32((logit - best) - log_total))
    if num_top > 0:
        first = 4 * row * load_i64(block + b.NUM_TOP)
        logprobs = load_i64(block + b.OUT_TOP_LOGPROBS) + first
        num_top = min(num_top, size)
        find_best_tokens(values, padded, num_top, load_i64(block + b.OUT_TOP_IDS) + first, logprobs)
        for place in range(num_top):
            logit = np.float64(load_f32(logprobs + 4 * place))
            store_f32(logprobs + 4 * place, np.float32((logit - best) - log_total))


@njit(nogil=True)
def adjust(block, row, values, counts):
    """Penalties and biases; whether there are any."""
    start, end = int_of(block, b.HISTORY_STARTS, row), int_of(block, b.HISTORY_STARTS, row + 1)
    if end > start:
        penalise(
            values,
            load_i64(block + b.HISTORY_IDS) + 4 * start,
            end - start,
            int_of(block, b.PROMPT_LENS, row),
            float_of(block, b.PRESENCE, row),
            float_of(block, b.FREQUENCY, row),
            float_of(block, b.REPETITION, row),
            counts,
        )
    first, stop = int_of(block, b.BIAS_STARTS, row), int_of(block, b.BIAS_STARTS, row + 1)
    if stop > first:
        ids, biases = load_i64(block + b.BIAS_IDS), load_i64(block + b.BIAS_VALUES)
        add_biases(values, ids + 4 * first, biases + 4 * first, stop - first)
    return end > start or stop > first


@njit(nogil=True, error_model="numpy")
def warm(values, padded, temperature):
    divisor = splat_f32(temperature)
    for k in range(0, padded, 16):
        store_f32x16(values + 4 * k, load_f32x16(values + 4 * k) / divisor)


@njit(nogil=True)
def choose(block, row, values, size, padded, token):
    """The token of a row. `values` holds its logits, `token` is the likeliest, scratch follows."""
    ids = values + 4 * padded
    distances = ids + 4 * padded
    buckets = distances + 4 * padded
    scratch = buckets + 2 * b.BUCKETS_BYTES
    temperature = float_of(block, b.TEMPERATURE, row)
    is_adjusted = adjust(block, row, values, ids)
    if temperature > np.float32(0.0):
        warm(values, padded, temperature)
    top = load_f32(values + 4 * token)
    if is_adjusted:
        top = largest(values, padded)
        token = first_of(values, size, top)
    if not temperature > np.float32(0.0) or not np.isfinite(top):
        return token
    top_k, top_p = int_of(block, b.TOP_K, row), float_of(block, b.TOP_P, row)
    min_p, typical_p = float_of(block, b.MIN_P, row), float_of(block, b.TYPICAL_P, row)
    if top_k > 0 or top_p < np.float32(1.0):
        keep_largest(values, padded, top, top_k, top_p, buckets, ids, scratch)
    if min_p > np.float32(0.0):
        keep_likely(values, padded, top, min_p)
    if typical_p < np.float32(1.0):
        keep_typical(values, padded, top, typical_p, distances, buckets, ids, scratch)
        # what is likeliest need not be typical
        token = first_of(values, size, largest(values, padded))
    seed = load_i64(load_i64(block + b.SEEDS) + 8 * row)
    position = load_i64(load_i64(block + b.POSITIONS) + 8 * row)
    return draw(values, padded, token, row_counter(seed, position), scratch)


@cfunc(types.void(types.int64, types.int64, types.int64, types.int64), nopython=True, cache=True)
def sample_row(rec, step, row, scratch):
    """Row `row` of a SAMPLE record; compiled by itself, see `second_part`."""
    x = load_i64(rec + t.SAMPLE_X) + row * load_i64(rec + t.SAMPLE_LD_X)
    size, block = load_i64(rec + t.SAMPLE_SIZE), load_i64(rec + t.SAMPLE_BLOCK)
    padded = (size + 15) // 16 * 16
    out = load_i64(block + b.OUT_TOKEN_IDS) + 4 * row
    top = largest_finite(x, size)
    is_finite = np.isfinite(top)
    store_i32(load_i64(block + b.OUT_STATUS) + 4 * row, OK if is_finite else NON_FINITE)
    if not is_finite:
        store_i32(out, np.int32(0))
        return
    token, target = first_of(x, size, top), int_of(block, b.TARGETS, row)
    is_sampled = target < 0
    is_plain = (
        not float_of(block, b.TEMPERATURE, row) > np.float32(0.0)
        and int_of(block, b.HISTORY_STARTS, row) == int_of(block, b.HISTORY_STARTS, row + 1)
        and int_of(block, b.BIAS_STARTS, row) == int_of(block, b.BIAS_STARTS, row + 1)
    )
    num_logprobs = int_of(block, b.NUM_LOGPROBS, row)
    if is_sampled and not is_plain:
        copy_row(x, size, padded, scratch)
        token = choose(block, row, scratch, size, padded, token)
    elif not is_sampled:
        token = target
    store_i32(out, np.int32(token))
    if num_logprobs >= 0:
        copy_row(x, size, padded, scratch)
        give_logprobs(block, row, scratch, size, padded, top, token, num_logprobs)
