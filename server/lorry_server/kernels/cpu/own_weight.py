"""The weight of a norm for one row: the model's, or that of the row's adapter."""

from __future__ import annotations

import numpy as np
from numba import njit

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.simd import load_i32, load_i64


@njit(nogil=True)
def own_weight(rec, step, row, weight, own):
    """The address of a norm's weight, which is in word `weight` of the record.

    In word `own` is the address of a table with an address for each slot, which are 0 where an adapter
    has no weight of its own.
    """
    if load_i64(step + t.HAS_ADAPTERS) != 0 and load_i64(rec + own) != 0:
        over_rows = load_i64(rec + t.ROWS) == t.LOGITS_ROWS
        adapters = load_i64(step + (t.ROW_ADAPTERS if over_rows else t.TOKEN_ADAPTERS))
        adapter = np.int64(load_i32(adapters + 4 * row))
        if adapter >= 0:
            address = load_i64(load_i64(rec + own) + t.WORD_BYTES * adapter)
            if address != 0:
                return address
    return load_i64(rec + weight)
