"""Matmul over packed weights of float32 or bfloat16, by chunks of panels."""

from __future__ import annotations

from numba import njit

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.float_results import (
    add_bias,
    add_float_adapters,
    add_float_tile,
    clear_tile,
    float_gate_tile,
)
from lorry_server.kernels.cpu.float_tile import (
    MAX_ROWS,
    STEP_BYTES,
    multiply_floats,
    multiply_pairs,
)
from lorry_server.kernels.cpu.matmul import (
    LD_TILE,
    has_adapters,
    logits_tile,
    num_rows,
    store_tile,
)
from lorry_server.kernels.cpu.simd import load_i64

AHEAD_BYTES = 2048  # of weights, where one tile takes all rows


@njit(nogil=True)
def float_panel(rec, step, first, rows, panel, tile, ahead, adds_adapters):
    """Results of a tile of rows with one panel of 32 columns."""
    w = load_i64(rec + t.W) + panel * load_i64(rec + t.PANEL_BYTES)
    ld, steps = load_i64(rec + t.LD_XQ), 32 * load_i64(rec + t.NUM_GROUPS)
    x = load_i64(rec + t.XQ) + first * ld
    clear_tile(rows, tile)
    if load_i64(rec + t.ELEMENT) == t.BFLOAT16:
        multiply_pairs(rows, w, w + 64, STEP_BYTES, x, ld, steps // 2, tile, LD_TILE, ahead)
    else:
        multiply_floats(rows, w, w + 64, STEP_BYTES, x, ld, steps, tile, LD_TILE, ahead)
    add_bias(rec, rows, panel, tile)
    if adds_adapters:
        add_float_adapters(rec, step, first, rows, panel, tile)


@njit(nogil=True)
def float_matmul_chunk(rec, step, chunk, scratch):
    """A chunk of panels times all rows. A panel stays in the cache while the rows pass."""
    mode = load_i64(rec + t.MODE)
    panels = load_i64(rec + t.NUM_PANELS)
    if mode == t.GATE:
        panels //= 2
    per_chunk = load_i64(rec + t.PANELS_PER_CHUNK)
    panel_bytes = load_i64(rec + t.PANEL_BYTES)
    w = load_i64(rec + t.W)
    total = num_rows(rec, step)
    adds_adapters = has_adapters(rec, step)
    for panel in range(chunk * per_chunk, min(panels, (chunk + 1) * per_chunk)):
        here = w + panel * panel_bytes
        for first in range(0, total, MAX_ROWS):
            rows = min(MAX_ROWS, total - first)
            # What is asked for ahead is the next panel, half in each of two passes; a single pass
            # runs ahead of itself.
            if total <= MAX_ROWS:
                ahead = here + AHEAD_BYTES
            elif first < 2 * MAX_ROWS:
                ahead = here + panel_bytes + first // MAX_ROWS * (panel_bytes // 2)
            else:
                ahead = here
            float_panel(rec, step, first, rows, panel, scratch, ahead, adds_adapters)
            if mode == t.GATE:
                upper, ahead_up = scratch + 128, ahead + panels * panel_bytes
                float_panel(rec, step, first, rows, panel + panels, upper, ahead_up, adds_adapters)
                float_gate_tile(rec, first, rows, panel, scratch)
            elif mode == t.ADD:
                add_float_tile(rec, first, rows, panel, scratch)
            elif mode == t.LOGITS:
                logits_tile(rec, first, rows, panel, scratch)
            else:
                store_tile(rec, first, rows, panel, scratch)
