"""The k largest of a row, in order: a short sorted list, and a test whether any of 16 enters it."""

from __future__ import annotations

import numpy as np
from numba import njit

from lorry_server.kernels.cpu.masks import mask_greater
from lorry_server.kernels.cpu.simd import (
    load_f32,
    load_f32x16,
    load_i32,
    splat_f32,
    store_f32,
    store_i32,
)


@njit(nogil=True)
def find_best_tokens(values, padded, count, ids, best):
    """Write the `count` largest, the lower id first among equals, to `ids` and `best`.

    No more than there are finite values; filling up to `padded`, a multiple of 16, is -inf.
    """
    for place in range(count):
        store_f32(best + 4 * place, np.float32(-np.inf))
        store_i32(ids + 4 * place, np.int32(0))
    last = np.float32(-np.inf)
    for k in range(0, padded, 16):
        if mask_greater(load_f32x16(values + 4 * k), splat_f32(last)) == 0:
            continue
        for token in range(k, k + 16):
            value = load_f32(values + 4 * token)
            if value > last:
                place = count - 1
                while place > 0 and load_f32(best + 4 * (place - 1)) < value:
                    store_f32(best + 4 * place, load_f32(best + 4 * (place - 1)))
                    store_i32(ids + 4 * place, load_i32(ids + 4 * (place - 1)))
                    place -= 1
                store_f32(best + 4 * place, value)
                store_i32(ids + 4 * place, np.int32(token))
                last = load_f32(best + 4 * (count - 1))
