"""Rows of floats to bytes in groups of 32, and RMSNorm before it; `kernels.affine_matmul` specifies."""

from __future__ import annotations

import numpy as np
from numba import njit

from lorry_server.kernels.cpu.exp import ROUNDING, ROUNDING_BITS
from lorry_server.kernels.cpu.simd import (
    bits_of,
    float_from_bits,
    high_f64,
    largest_int,
    load_f32x16,
    low_f64,
    maximum_int,
    splat_f32,
    splat_f64,
    splat_i32,
    store_bytes,
    store_f32,
    store_f32x16,
    store_i32,
    sum_f64,
    sum_int,
)

SMALLEST_BITS = 0x0DA24260  # of 1e-30, what a group's largest magnitude is raised to


@njit(nogil=True)
def magnitude_bits(x):
    """The bits of |x|: as integers they order like the magnitudes, NaN above all."""
    return bits_of(x) & splat_i32(np.int32(0x7FFFFFFF))


@njit(nogil=True)
def largest_magnitude(bits):
    largest = largest_int(bits)
    return float_from_bits(max(largest, np.int32(SMALLEST_BITS)))


@njit(nogil=True)
def shifted_nearest(x):
    """Integers whose low bytes are those of `nearest(x)`: enough for `store_bytes`."""
    return bits_of(x + splat_f32(ROUNDING))


@njit(nogil=True)
def nearest(x):
    """The nearest integers, ties to even, of |x| < 2**22."""
    return bits_of(x + splat_f32(ROUNDING)) - splat_i32(np.int32(ROUNDING_BITS))


@njit(nogil=True, error_model="numpy")
def quantize_group(a, b, xq, scale, start):
    """Two registers to 32 bytes, their scale and -128 times their sum."""
    most = largest_magnitude(maximum_int(magnitude_bits(a), magnitude_bits(b)))
    inverse = splat_f32(np.float32(127.0) / most)
    a_int, b_int = nearest(a * inverse), nearest(b * inverse)
    store_bytes(xq, a_int)
    store_bytes(xq + 16, b_int)
    store_f32(scale, most / np.float32(127.0))
    store_i32(start, np.int32(-128) * sum_int(a_int + b_int))


@njit(nogil=True, error_model="numpy")
def quantize_two_groups(a, b, c, d, xq, ld, scale, start, ld_scale):
    """`quantize_group` of a and b, and of c and d a row further on, side by side."""
    most_ab = largest_magnitude(maximum_int(magnitude_bits(a), magnitude_bits(b)))
    most_cd = largest_magnitude(maximum_int(magnitude_bits(c), magnitude_bits(d)))
    inverse_ab = splat_f32(np.float32(127.0) / most_ab)
    inverse_cd = splat_f32(np.float32(127.0) / most_cd)
    a_int, b_int = nearest(a * inverse_ab), nearest(b * inverse_ab)
    c_int, d_int = nearest(c * inverse_cd), nearest(d * inverse_cd)
    store_bytes(xq, a_int)
    store_bytes(xq + 16, b_int)
    store_bytes(xq + ld, c_int)
    store_bytes(xq + ld + 16, d_int)
    store_f32(scale, most_ab / np.float32(127.0))
    store_f32(scale + ld_scale, most_cd / np.float32(127.0))
    store_i32(start, np.int32(-128) * sum_int(a_int + b_int))
    store_i32(start + ld_scale, np.int32(-128) * sum_int(c_int + d_int))


@njit(nogil=True, error_model="numpy")
def quantize_row(x, num_groups, xq, scale, start):
    """A row to bytes, and for each group a scale and -128 times the sum of its bytes."""
    for g in range(num_groups):
        a, b = load_f32x16(x + 128 * g), load_f32x16(x + 128 * g + 64)
        quantize_group(a, b, xq + 32 * g, scale + 4 * g, start + 4 * g)


@njit(nogil=True, error_model="numpy")
def norm_factor(x, size, padded, eps):
    """1 / rms of `size` floats, the sum in float64; up to `padded` (a multiple of 16) are zeros."""
    low, high = splat_f64(0.0), splat_f64(0.0)
    for i in range(0, padded, 16):
        values = load_f32x16(x + 4 * i)
        a, b = low_f64(values), high_f64(values)
        low = low + a * a
        high = high + b * b
    mean = sum_f64(low + high) / np.float64(size)
    return np.float32(1.0 / np.sqrt(mean + eps))


@njit(nogil=True, error_model="numpy")
def norm_row(x, weight, size, padded, eps, y):
    """RMSNorm of a row, to `y`, which may be `x`."""
    factor = splat_f32(norm_factor(x, size, padded, eps))
    for i in range(0, padded, 16):
        normed = (load_f32x16(x + 4 * i) * factor) * load_f32x16(weight + 4 * i)
        store_f32x16(y + 4 * i, normed)
