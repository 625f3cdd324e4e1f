"""exp and what is made of it, sixteen at a time; `kernels.exp` is the specification, to the bit."""

from __future__ import annotations

import numpy as np
from numba import njit

from lorry_server.kernels.cpu.simd import (
    bits_of,
    from_bits,
    maximum,
    minimum,
    splat_f32,
    splat_i32,
)

# Adding it puts the nearest integer, ties to even, into the low bits of the sum.
ROUNDING = np.float32(12582912.0)
ROUNDING_BITS = 0x4B400000


@njit(nogil=True)
def exp(x):
    return exp_of_nonpositive(minimum(x, splat_f32(np.float32(88.0))))


@njit(nogil=True)
def exp_of_nonpositive(x):
    """`exp` without the upper bound on x."""
    x = maximum(x, splat_f32(np.float32(-87.0)))
    rounding = splat_f32(ROUNDING)
    shifted = x * splat_f32(np.float32(1.44269504088896341)) + rounding
    n = shifted - rounding
    r = x - n * splat_f32(np.float32(0.693359375))
    r = r - n * splat_f32(np.float32(-2.12194440e-4))
    p = splat_f32(np.float32(1.9875691500e-4)) * r + splat_f32(np.float32(1.3981999507e-3))
    p = p * r + splat_f32(np.float32(8.3334519073e-3))
    p = p * r + splat_f32(np.float32(4.1665795894e-2))
    p = p * r + splat_f32(np.float32(1.6666665459e-1))
    p = p * r + splat_f32(np.float32(5.0000001201e-1))
    y = (p * (r * r) + r) + splat_f32(np.float32(1.0))
    exponent = bits_of(shifted) - splat_i32(np.int32(ROUNDING_BITS - 127))
    return y * from_bits(exponent << splat_i32(np.int32(23)))


@njit(nogil=True)
def tanh(z):
    one = splat_f32(np.float32(1.0))
    two = splat_f32(np.float32(2.0))
    return one - two / (exp(two * z) + one)


@njit(nogil=True)
def silu(gate):
    zero, one = splat_f32(np.float32(0.0)), splat_f32(np.float32(1.0))
    return gate / (one + exp(zero - gate))


@njit(nogil=True)
def gelu_tanh(x):
    inner = x + splat_f32(np.float32(0.044715)) * ((x * x) * x)
    half = splat_f32(np.float32(0.5)) * x
    return half * (splat_f32(np.float32(1.0)) + tanh(splat_f32(np.float32(0.7978845608)) * inner))
