"""`own_rows` over weights of float32 or bfloat16."""

from __future__ import annotations

from numba import njit

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.float_results import add_product, clear_tile, settle_rows
from lorry_server.kernels.cpu.matmul import scale_results
from lorry_server.kernels.cpu.own_rows import over_own_rows
from lorry_server.kernels.cpu.simd import load_i64


@njit(nogil=True)
def own_float_panel(rec, entry, first, rows, panel, tile):
    """Results of a tile of rows, all of one adapter, with one panel of its own."""
    is_bf16 = load_i64(rec + t.ELEMENT) == t.BFLOAT16
    groups, ld = load_i64(rec + t.NUM_GROUPS), load_i64(rec + t.LD_XQ)
    w = load_i64(entry + t.OWN_W) + panel * groups * (2048 if is_bf16 else 4096)
    steps = (16 if is_bf16 else 32) * groups
    clear_tile(rows, tile)
    add_product(rec, rows, w, load_i64(rec + t.XQ) + first * ld, ld, steps, tile)


@njit(nogil=True)
def add_own_float_lora(rec, entry, first, rows, panel, tile):
    """Add what LoRA on the head makes of the rows in these columns."""
    is_bf16 = load_i64(rec + t.ELEMENT) == t.BFLOAT16
    rank = load_i64(entry + t.OWN_RANK)
    if rank > 0:
        shrunk = load_i64(rec + t.SHRUNK)
        ld = 32 * load_i64(shrunk + t.SHRUNK_GROUPS) * (2 if is_bf16 else 4)
        steps = (rank + 1) // 2 if is_bf16 else rank
        b = load_i64(entry + t.OWN_B) + panel * steps * 128
        add_product(rec, rows, b, load_i64(shrunk + t.SHRUNK_XQ) + first * ld, ld, steps, tile)
    scale = load_i64(entry + t.OWN_RESULT_SCALE)
    scale_results(scale, load_i64(entry + t.OWN_RESULT_SHIFT), rows, panel, tile)
    if scale != 0 and load_i64(rec + t.ROUNDS) != 0:
        settle_rows(rows, tile)


float_own_rows_chunk = over_own_rows(own_float_panel, add_own_float_lora)
