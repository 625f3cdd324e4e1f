"""Weights of a distribution as integers; `kernels.masses` is the specification, to the bit."""

from __future__ import annotations

import numpy as np
from numba import njit

from lorry_server.kernels.cpu.exp import exp
from lorry_server.kernels.cpu.log import log
from lorry_server.kernels.cpu.simd import (
    bits_of_f64,
    high_f64,
    load_f32x16,
    low_f64,
    splat_f32,
    splat_f64,
    splat_i64,
    sum_i64,
)

ONE = 2.0**42
# Adding it puts the nearest integer, ties to even, into the low bits of a sum.
ROUNDING = 6755399441055744.0
ROUNDING_BITS = np.int64(0x4338000000000000)


@njit(nogil=True)
def nearest(x):
    """The nearest integers, ties to even, of |x| < 2**51."""
    return bits_of_f64(x + splat_f64(ROUNDING)) - splat_i64(ROUNDING_BITS)


@njit(nogil=True)
def low_mass(weight):
    return nearest(low_f64(weight) * splat_f64(ONE))


@njit(nogil=True)
def high_mass(weight):
    return nearest(high_f64(weight) * splat_f64(ONE))


@njit(nogil=True)
def total_mass(values, padded, top):
    """The sum of e^(value - top) over a row, in units of 1 / ONE."""
    best = splat_f32(top)
    low, high = splat_i64(np.int64(0)), splat_i64(np.int64(0))
    for k in range(0, padded, 16):
        weight = exp(load_f32x16(values + 4 * k) - best)
        low = low + low_mass(weight)
        high = high + high_mass(weight)
    return sum_i64(low + high)


@njit(nogil=True)
def log_of_mass(total):
    return log(np.float64(total) * (1.0 / ONE))
