"""What is done to a tile of float results while they are at hand: bias, adapters, where they go.

Where the model's activations are bfloat16 each of these rounds its result, as the reference does.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.bfloat16 import settle, store_elements
from lorry_server.kernels.cpu.exp import gelu_tanh, silu
from lorry_server.kernels.cpu.float_tile import (
    MAX_ROWS,
    STEP_BYTES,
    multiply_floats,
    multiply_pairs,
)
from lorry_server.kernels.cpu.matmul import LD_TILE, scale_results
from lorry_server.kernels.cpu.simd import (
    load_f32,
    load_f32x16,
    load_i32,
    load_i64,
    load_u8,
    splat_f32,
    store_f32x16,
)


@njit(nogil=True)
def clear_tile(rows, tile):
    """Zeros in all rows that a tile of `rows` rows may add to."""
    nothing = splat_f32(np.float32(0.0))
    for m in range(min(rows + 1, MAX_ROWS)):
        store_f32x16(tile + m * LD_TILE, nothing)
        store_f32x16(tile + m * LD_TILE + 64, nothing)


@njit(nogil=True)
def add_bias(rec, rows, panel, tile):
    rounds = load_i64(rec + t.ROUNDS) != 0
    bias = load_i64(rec + t.BIAS)
    for m in range(rows):
        for half in range(0, 128, 64):
            at = tile + m * LD_TILE + half
            values = settle(load_f32x16(at), rounds)
            if bias != 0:
                values = settle(values + load_f32x16(bias + 128 * panel + half), rounds)
            store_f32x16(at, values)


@njit(nogil=True)
def add_float_adapters(rec, step, first, rows, panel, tile):
    """Add to a tile of results what each row's adapter makes of the row (B times the shrunk row)."""
    over_rows = load_i64(rec + t.ROWS) == t.LOGITS_ROWS
    adapters = load_i64(step + (t.ROW_ADAPTERS if over_rows else t.TOKEN_ADAPTERS)) + 4 * first
    piece = np.int64(load_u8(load_i64(rec + t.PANEL_SLICE) + panel))
    is_bf16 = load_i64(rec + t.ELEMENT) == t.BFLOAT16
    shrunk = load_i64(rec + t.SHRUNK)
    piece_bytes = 32 * load_i64(shrunk + t.SHRUNK_GROUPS) * (2 if is_bf16 else 4)
    ld = piece_bytes * load_i64(rec + t.NUM_SLICES)
    x = load_i64(shrunk + t.SHRUNK_XQ) + first * ld + piece * piece_bytes
    rounds = load_i64(rec + t.ROUNDS) != 0
    m = 0
    while m < rows:
        adapter = load_i32(adapters + 4 * m)
        end = m + 1
        while end < rows and load_i32(adapters + 4 * end) == adapter:
            end += 1
        if adapter >= 0:
            entry = load_i64(rec + t.LORA) + adapter * load_i64(rec + t.LORA_SLOT_BYTES)
            part = entry + piece * (t.SLICE_WORDS * t.WORD_BYTES)
            rank = load_i64(part + t.LORA_RANK)
            steps = (rank + 1) // 2 if is_bf16 else rank
            b = load_i64(part + t.LORA_B) + panel * steps * 128
            here = tile + m * LD_TILE
            if rank > 0:
                add_product(rec, end - m, b, x + m * ld, ld, steps, here)
            scale = load_i64(entry + t.LORA_RESULT_SCALE)
            scale_results(scale, load_i64(entry + t.LORA_RESULT_SHIFT), end - m, panel, here)
            if rounds and scale != 0:
                settle_rows(end - m, here)
        m = end


@njit(nogil=True)
def add_product(rec, rows, w, x, ld, steps, tile):
    """Add the product of rows with a panel of `steps` steps to a tile, and touch no row more."""
    row = np.int64(0)
    while row < rows:
        taken = exact_rows(rows - row)
        x_row, y_row = x + row * ld, tile + row * LD_TILE
        if load_i64(rec + t.ELEMENT) == t.BFLOAT16:
            multiply_pairs(taken, w, w + 64, STEP_BYTES, x_row, ld, steps, y_row, LD_TILE, w)
        else:
            multiply_floats(taken, w, w + 64, STEP_BYTES, x_row, ld, steps, y_row, LD_TILE, w)
        row += taken
    if load_i64(rec + t.ROUNDS) != 0:
        settle_rows(rows, tile)


@njit(nogil=True)
def settle_rows(rows, tile):
    """Round rows of a panel to bfloat16."""
    for m in range(rows):
        for half in range(0, 128, 64):
            at = tile + m * LD_TILE + half
            store_f32x16(at, settle(load_f32x16(at), True))


@njit(nogil=True)
def exact_rows(rows):
    """The most of `rows` that a tile computes without touching one more."""
    if rows >= 6:
        return 6
    if rows >= 4:
        return 4
    return min(rows, 2)


@njit(nogil=True)
def add_float_tile(rec, first, rows, panel, tile):
    """Add to the residual stream."""
    y, ldy = load_i64(rec + t.Y), load_i64(rec + t.LD_Y)
    factor = load_f32(rec + t.FACTOR)
    rounds = load_i64(rec + t.ROUNDS) != 0
    for m in range(rows):
        for half in range(0, 128, 64):
            values = load_f32x16(tile + m * LD_TILE + half)
            if factor != np.float32(1.0):
                values = settle(values * splat_f32(factor), rounds)
            target = y + (first + m) * ldy + 128 * panel + half
            store_f32x16(target, settle(load_f32x16(target) + values, rounds))


@njit(nogil=True)
def float_gate_tile(rec, first, rows, panel, tile):
    """activation(gate) * up of 32 features, to the rows of the next matmul."""
    out, ld = load_i64(rec + t.OUT_XQ), load_i64(rec + t.OUT_LD_XQ)
    is_silu = load_i64(rec + t.ACTIVATION) == t.SILU
    is_bf16 = load_i64(rec + t.ELEMENT) == t.BFLOAT16
    rounds = load_i64(rec + t.ROUNDS) != 0
    for m in range(rows):
        for half in range(2):
            at = tile + m * LD_TILE + 64 * half
            values = load_f32x16(at)
            values = silu(values) if is_silu else gelu_tanh(values)
            values = settle(values, rounds) * load_f32x16(at + 128)
            store_elements(out + (first + m) * ld, 32 * panel + 16 * half, values, is_bf16)
