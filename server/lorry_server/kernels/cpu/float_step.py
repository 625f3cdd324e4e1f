"""`run_float`: every operation over floats, compiled by itself; see `second_part`."""

from __future__ import annotations

from numba import cfunc
from numba.core import types

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.float_attention import attend_float_chunk
from lorry_server.kernels.cpu.float_keys_and_values import float_keys_and_values_token
from lorry_server.kernels.cpu.float_lora import shrink_float_row
from lorry_server.kernels.cpu.float_matmul import float_matmul_chunk
from lorry_server.kernels.cpu.float_own_rows import float_own_rows_chunk
from lorry_server.kernels.cpu.float_rows import (
    add_normed_float_row,
    embed_float_row,
    norm_float_row,
    row_to_bf16,
)
from lorry_server.kernels.cpu.simd import load_i64


@cfunc(types.void(types.int64, types.int64, types.int64, types.int64), nopython=True, cache=True)
def run_float(rec, step, index, scratch):
    """A chunk of one of the operations over floats; of those on single rows, row `index`."""
    op = load_i64(rec + t.OP)
    if op == t.FLOAT_MATMUL:
        float_matmul_chunk(rec, step, index, scratch)
    elif op == t.FLOAT_ATTEND:
        attend_float_chunk(rec, step, index, scratch)
    elif op == t.FLOAT_NORM:
        norm_float_row(rec, step, index, scratch)
    elif op == t.TO_BFLOAT16:
        row_to_bf16(rec, step, index)
    elif op == t.FLOAT_KEYS_AND_VALUES:
        float_keys_and_values_token(rec, step, index, scratch)
    elif op == t.FLOAT_EMBED:
        embed_float_row(rec, step, index)
    elif op == t.FLOAT_SHRINK:
        shrink_float_row(rec, step, index)
    elif op == t.FLOAT_OWN_ROWS:
        float_own_rows_chunk(rec, step, index, scratch)
    elif op == t.FLOAT_ADD_NORMED:
        add_normed_float_row(rec, step, index, scratch)
