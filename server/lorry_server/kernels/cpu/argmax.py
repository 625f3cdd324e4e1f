"""The largest of a row of floats, and where it stands first."""

from __future__ import annotations

import numpy as np
from numba import njit

from lorry_server.kernels.cpu.simd import (
    float_max,
    high_f64,
    load_f32,
    load_f32x16,
    low_f64,
    maximum,
    splat_f32,
    sum_f64,
)


@njit(nogil=True)
def largest_finite(x, size):
    """The largest of `size` floats; NaN if any is NaN or infinite."""
    whole = size // 16 * 16
    zero = splat_f32(np.float32(0.0))
    best, poison = splat_f32(np.float32(-np.inf)), zero
    for k in range(0, whole, 16):
        values = load_f32x16(x + 4 * k)
        best = maximum(values, best)
        poison = poison + values * zero
    # a sum is NaN if any lane is; the largest lane would not be
    largest = float_max(best)
    spoilt = np.float32(sum_f64(low_f64(poison) + high_f64(poison)))
    for k in range(whole, size):
        largest = max(largest, load_f32(x + 4 * k))
        spoilt += load_f32(x + 4 * k) * np.float32(0.0)
    return largest + spoilt


@njit(nogil=True)
def largest(x, padded):
    """The largest of `padded` floats, a multiple of 16; -inf is a value like others."""
    best = splat_f32(np.float32(-np.inf))
    for k in range(0, padded, 16):
        best = maximum(load_f32x16(x + 4 * k), best)
    return float_max(best)


@njit(nogil=True)
def first_of(x, size, value):
    """Where `value` stands first; `size` where it is not."""
    index = np.int64(0)
    while index < size and load_f32(x + 4 * index) != value:
        index += 1
    return index
