"""Rows of the head that adapters bring themselves: their results stand in place of the head's.

It follows the head's matmul. What the head has made of those columns is written over, so only rows whose
adapter has such rows pay. LoRA on the head changes these columns like the others; its B is there twice
for them, once in the order of the head's columns and once in that of the own rows.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.matmul import (
    DELTA,
    LD_DELTA,
    LD_TILE,
    MAX_ROWS,
    finish_logits,
    num_rows,
    scale_results,
    store_tile,
)
from lorry_server.kernels.cpu.simd import (
    load_f32,
    load_f32x16,
    load_i32,
    load_i64,
    store_f32,
    store_f32x16,
)
from lorry_server.kernels.cpu.tile import NOTHING, multiply


@njit(nogil=True)
def next_run(adapters, first, end):
    """The first row from `first` on whose adapter is another, at most a tile further."""
    adapter = load_i32(adapters + 4 * first)
    stop = first + 1
    while stop < end and stop - first < MAX_ROWS and load_i32(adapters + 4 * stop) == adapter:
        stop += 1
    return stop


@njit(nogil=True)
def store_own_tile(rec, entry, first, rows, panel, tile):
    """Finished logits to the columns that they are for."""
    ids = load_i64(entry + t.OWN_IDS)
    if ids == 0:
        store_tile(rec, first, rows, panel, tile)
        return
    y, ldy = load_i64(rec + t.Y), load_i64(rec + t.LD_Y)
    count = min(np.int64(32), load_i64(entry + t.OWN_NUM_IDS) - 32 * panel)
    for m in range(rows):
        for column in range(count):
            token = np.int64(load_i32(ids + 4 * (32 * panel + column)))
            value = load_f32(tile + m * LD_TILE + 4 * column)
            store_f32(y + (first + m) * ldy + 4 * token, value)


@njit(nogil=True)
def own_panel(rec, entry, first, rows, panel, tile):
    """Results of a tile of rows, all of one adapter, with one panel of its own."""
    groups = load_i64(rec + t.NUM_GROUPS)
    ld, ld_scale = load_i64(rec + t.LD_XQ), 4 * groups
    multiply(
        rows,
        load_i64(entry + t.OWN_W) + panel * groups * 1024,
        load_i64(rec + t.XQ) + first * ld,
        ld,
        load_i64(rec + t.X_START) + first * ld_scale,
        ld_scale,
        load_i64(rec + t.X_SCALE) + first * ld_scale,
        ld_scale,
        groups,
        NOTHING,
        tile,
        LD_TILE,
        NOTHING,
    )
    scale = load_i64(entry + t.OWN_SCALE) + 128 * panel
    for m in range(rows):
        for half in range(0, 128, 64):
            at = tile + m * LD_TILE + half
            store_f32x16(at, load_f32x16(at) * load_f32x16(scale + half))


@njit(nogil=True)
def add_own_lora(rec, entry, first, rows, panel, tile):
    """Add what LoRA on the head makes of the rows in these columns."""
    rank = load_i64(entry + t.OWN_RANK)
    if rank > 0:
        shrunk = load_i64(rec + t.SHRUNK)
        ld_scale = 4 * load_i64(shrunk + t.SHRUNK_GROUPS)  # the head is one slice
        ld = 8 * ld_scale
        num_steps = (rank + 3) // 4
        delta = tile + DELTA
        multiply(
            rows,
            load_i64(entry + t.OWN_B) + panel * num_steps * LD_DELTA,
            load_i64(shrunk + t.SHRUNK_XQ) + first * ld,
            ld,
            load_i64(shrunk + t.SHRUNK_START) + first * ld_scale,
            ld_scale,
            load_i64(shrunk + t.SHRUNK_SCALE) + first * ld_scale,
            ld_scale,
            num_steps // 8,
            num_steps % 8,
            delta,
            LD_DELTA,
            NOTHING,
        )
        scale = load_i64(entry + t.OWN_B_SCALE) + 128 * panel
        for m in range(rows):
            for half in range(0, 128, 64):
                at = tile + m * LD_TILE + half
                share = load_f32x16(delta + LD_DELTA * m + half) * load_f32x16(scale + half)
                store_f32x16(at, load_f32x16(at) + share)
    scale_results(
        load_i64(entry + t.OWN_RESULT_SCALE),
        load_i64(entry + t.OWN_RESULT_SHIFT),
        rows,
        panel,
        tile,
    )


def over_own_rows(multiply_panel, add_lora):
    """The operation that gives `multiply_panel`, then `add_lora`, every tile that has own rows."""

    @njit(nogil=True)
    def chunk_of_own_rows(rec, step, chunk, scratch):
        """A few panels of every adapter that has so many, times its rows."""
        adapters = load_i64(step + t.ROW_ADAPTERS)
        total = num_rows(rec, step)
        first = np.int64(0)
        while first < total:
            stop = next_run(adapters, first, total)
            adapter = np.int64(load_i32(adapters + 4 * first))
            if adapter >= 0:
                entry = load_i64(rec + t.OWN_TABLE) + adapter * t.OWN_ENTRY_BYTES
                begin = chunk * t.OWN_PANELS_PER_CHUNK
                end = min(load_i64(entry + t.OWN_NUM_PANELS), begin + t.OWN_PANELS_PER_CHUNK)
                for panel in range(begin, end):
                    multiply_panel(rec, entry, first, stop - first, panel, scratch)
                    add_lora(rec, entry, first, stop - first, panel, scratch)
                    finish_logits(rec, stop - first, scratch)
                    store_own_tile(rec, entry, first, stop - first, panel, scratch)
            first = stop

    return chunk_of_own_rows


own_rows_chunk = over_own_rows(own_panel, add_own_lora)
