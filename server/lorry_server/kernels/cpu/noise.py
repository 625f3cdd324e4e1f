"""The draw: the largest of value plus Gumbel noise, where noise is computed only if it may decide.

`kernels.sampling.gumbel_noise` is the specification. Noise of u is -log(-log(u)), which is at most
-log(1 - u). So a token can reach a score that another has already only if
1 - u <= e^(value - score), and that takes an exponential in float32 and the bits of the counter.
About one token in a row passes that test when the score is that of the token drawn in the end, and
few before; their noise is computed in full. The test leaves room for all its roundings.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from lorry_server.kernels.cpu.exp import exp
from lorry_server.kernels.cpu.log import log
from lorry_server.kernels.cpu.masks import mask_less_equal, upper_halves
from lorry_server.kernels.cpu.simd import (
    load_f32,
    load_f32x16,
    load_i64x8,
    splat_f32,
    splat_i32,
    splat_i64,
    store_i64,
    to_float,
)

# SplitMix64: the increment and the two multipliers of its finaliser.
GOLDEN = np.int64(0x9E3779B97F4A7C15 - (1 << 64))
MIX_1 = np.int64(0xBF58476D1CE4E5B9 - (1 << 64))
MIX_2 = np.int64(0x94D049BB133111EB - (1 << 64))


@njit(nogil=True)
def mix(x):
    """Shifts of an int64 bring the sign in from above: the masks take it off."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * MIX_1
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * MIX_2
    return x ^ ((x >> 31) & ((1 << 33) - 1))


@njit(nogil=True)
def mix_lanes(x):
    x = (x ^ (x >> splat_i64(np.int64(30)))) * splat_i64(MIX_1)
    x = (x ^ (x >> splat_i64(np.int64(27)))) * splat_i64(MIX_2)
    return x ^ (x >> splat_i64(np.int64(31)))


@njit(nogil=True)
def row_counter(seed, position):
    return mix(mix(seed + GOLDEN) + position * GOLDEN)


@njit(nogil=True)
def gumbel(counter, token):
    """The noise of one token."""
    bits = (mix(counter + (token + np.int64(1)) * GOLDEN) >> 12) & ((1 << 52) - 1)
    uniform = (np.float64(bits) + 0.5) * 2.0**-52
    return -np.float32(log(-log(uniform)))


@njit(nogil=True)
def room_for_rounding(score):
    """What is added to a difference of scores so that no rounding can hide a token."""
    return np.float32(1e-4) + abs(score) * np.float32(2.0**-21) - score


@njit(nogil=True)
def draw(values, padded, first, counter, scratch):
    """The token with the largest value plus noise, the lowest of equals.

    `first` is where the search starts: the largest value is best. Filling up to `padded`, a
    multiple of 16, is -inf. `scratch` has 128 bytes.
    """
    token = first
    score = load_f32(values + 4 * first) + gumbel(counter, first)
    room = splat_f32(room_for_rounding(score))
    for lane in range(16):
        store_i64(scratch + 8 * lane, counter + np.int64(lane + 1) * GOLDEN)
    low, high = load_i64x8(scratch), load_i64x8(scratch + 64)
    stride, ones = splat_i64(np.int64(16) * GOLDEN), splat_i32(np.int32(-1))
    for k in range(0, padded, 16):
        # 31 bits of 1 - u, rounded down
        above = ones ^ upper_halves(mix_lanes(low), mix_lanes(high))
        distance = to_float(above >> splat_i32(np.int32(1)))
        reach = exp(load_f32x16(values + 4 * k) + room) * splat_f32(np.float32(2.0**31))
        passed = mask_less_equal(distance, reach)
        if passed != 0:
            for lane in range(16):
                if (passed >> lane) & 1 != 0:
                    other = np.int64(k + lane)
                    reached = load_f32(values + 4 * other) + gumbel(counter, other)
                    if reached > score or (reached == score and other < token):
                        token, score = other, reached
            room = splat_f32(room_for_rounding(score))
        low, high = low + stride, high + stride
    return token
