"""Top-k, top-p, min-p and typical-p on a row; `kernels.filters` is the specification, to the bit.

What is removed becomes -inf. Rows are filled up with -inf to `padded`, a multiple of 16.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from lorry_server.kernels.cpu.argmax import largest
from lorry_server.kernels.cpu.exp import exp
from lorry_server.kernels.cpu.log import log
from lorry_server.kernels.cpu.masks import where_float_less
from lorry_server.kernels.cpu.masses import high_mass, log_of_mass, low_mass, nearest, total_mass
from lorry_server.kernels.cpu.selection import EVERYTHING, fill_buckets, select
from lorry_server.kernels.cpu.simd import (
    f64_of_i64,
    high_f64,
    load_f32,
    load_f32x16,
    low_f64,
    minimum,
    splat_f32,
    splat_f64,
    splat_i64,
    store_f32,
    store_f32x16,
    sum_i64,
)

UNLIKELY = np.float32(1000.0)
SURPRISE_UNIT = 2.0**-4


@njit(nogil=True)
def mass_limit(share, total):
    """The mass that is `share` of `total`, at least 1."""
    return max(np.int64(np.ceil(np.float64(share) * np.float64(total))), np.int64(1))


@njit(nogil=True)
def remove_after(values, logits, padded, last):
    """Remove the tokens that stand after token `last` in the order of `values`."""
    least = load_f32(values + 4 * last)
    nothing = splat_f32(np.float32(-np.inf))
    for k in range(0, padded, 16):
        value = load_f32x16(values + 4 * k)
        kept = where_float_less(value, splat_f32(least), nothing, load_f32x16(logits + 4 * k))
        store_f32x16(logits + 4 * k, kept)
    # `values` may be `logits`, where those less than `least` are -inf by now: no equals among them
    for token in range(last + 1, padded):
        if load_f32(values + 4 * token) == least:
            store_f32(logits + 4 * token, np.float32(-np.inf))


@njit(nogil=True)
def keep_largest(logits, padded, top, top_k, top_p, buckets, ids, scratch):
    """Top-k, and top-p of what it leaves."""
    fill_buckets(logits, logits, padded, top, top, buckets, scratch)
    max_count = np.int64(top_k) if top_k > 0 else EVERYTHING
    max_mass, last = EVERYTHING, np.int64(-1)
    for _ in range(2 if top_p < np.float32(1.0) else 1):  # one call: it is much code
        last, kept = select(
            logits, logits, padded, top, top, max_count, max_mass, buckets, ids, scratch
        )
        max_mass = mass_limit(top_p, kept)
    if last >= 0:
        remove_after(logits, logits, padded, last)


@njit(nogil=True)
def keep_likely(logits, padded, top, min_p):
    """Min-p: remove what is less likely than `min_p` times the best."""
    least = splat_f32(np.float32(log(max(np.float64(min_p), 1e-300))))
    best, nothing = splat_f32(top), splat_f32(np.float32(-np.inf))
    for k in range(0, padded, 16):
        logit = load_f32x16(logits + 4 * k)
        store_f32x16(logits + 4 * k, where_float_less(logit - best, least, nothing, logit))


@njit(nogil=True)
def keep_typical(logits, padded, top, typical_p, values, buckets, ids, scratch):
    """Typical-p; `values` has room for a row."""
    total = total_mass(logits, padded, top)
    best, log_total = splat_f32(top), splat_f32(np.float32(log_of_mass(total)))
    unlikely, unit = splat_f32(UNLIKELY), splat_f64(SURPRISE_UNIT)
    low, high = splat_i64(np.int64(0)), splat_i64(np.int64(0))
    for k in range(0, padded, 16):
        below = load_f32x16(logits + 4 * k) - best
        weight = exp(below)
        surprise = minimum(log_total - below, unlikely)
        low = low + nearest((low_f64(surprise) * f64_of_i64(low_mass(weight))) * unit)
        high = high + nearest((high_f64(surprise) * f64_of_i64(high_mass(weight))) * unit)
    sums = np.float64(sum_i64(low + high))
    entropy = splat_f32(np.float32(sums / (np.float64(total) * SURPRISE_UNIT)))
    zero = splat_f32(np.float32(0.0))
    for k in range(0, padded, 16):
        distance = (log_total - (load_f32x16(logits + 4 * k) - best)) - entropy
        store_f32x16(values + 4 * k, minimum(distance, zero - distance))
    nearest_value = largest(values, padded)
    fill_buckets(values, logits, padded, nearest_value, top, buckets, scratch)
    limit = mass_limit(typical_p, total)
    last, _ = select(
        values, logits, padded, nearest_value, top, EVERYTHING, limit, buckets, ids, scratch
    )
    if last >= 0:
        remove_after(values, logits, padded, last)
