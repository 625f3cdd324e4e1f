"""The natural logarithm of one float64; `kernels.log` is the specification, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numba.core import types
from numba.core.extending import intrinsic

from lorry_server.kernels.cpu.simd import F64, I64

SQRT_HALF_BITS = np.int64(0x3FE6A09E667F3BCD)
LN2_HIGH, LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10
SERIES = tuple(1.0 / degree for degree in range(23, 1, -2))


@intrinsic
def double_bits(typingctx: Any, value: Any) -> Any:
    """A float64 as the 64 bits that spell it."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], I64)

    return types.int64(types.float64), codegen


@intrinsic
def double_from_bits(typingctx: Any, bits: Any) -> Any:
    """The float64 that 64 bits spell."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.bitcast(args[0], F64)

    return types.float64(types.int64), codegen


@njit(nogil=True, error_model="numpy")
def log(x):
    bits = double_bits(x)
    k = (bits - SQRT_HALF_BITS) >> 52
    m = double_from_bits(bits - (k << 52))
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    p = SERIES[0]
    for i in range(1, len(SERIES)):
        p = p * z + SERIES[i]
    k_float = np.float64(k)
    twice = s + s
    tail = (twice * z) * p + k_float * LN2_LOW
    return (tail + twice) + k_float * LN2_HIGH
