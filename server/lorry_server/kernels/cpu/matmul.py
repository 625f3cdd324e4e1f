"""Integer matmul over packed weights, and what is done to its results while they are at hand."""

from __future__ import annotations

import numpy as np
from numba import njit

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.exp import gelu_tanh, silu, tanh
from lorry_server.kernels.cpu.nibble_tile import multiply_nibbles
from lorry_server.kernels.cpu.quantize import quantize_group, quantize_two_groups
from lorry_server.kernels.cpu.simd import (
    load_f32,
    load_f32x16,
    load_i32,
    load_i64,
    load_u8,
    prefetch_bytes,
    splat_f32,
    store_f32x16,
)
from lorry_server.kernels.cpu.tile import LINES_AHEAD, NOTHING, STEPS, multiply

MAX_ROWS = 6  # of a tile
LD_TILE = np.int64(256)  # bytes of scratch for a row: two panels of 32 floats
LD_DELTA = np.int64(128)  # one panel
TILES_THAT_ASK = -(-2 * STEPS // LINES_AHEAD)  # for all lines of the next panel
DELTA = MAX_ROWS * LD_TILE  # where in the scratch an adapter's share is made


@njit(nogil=True)
def num_rows(rec, step):
    return load_i64(
        step + (t.NUM_ROWS if load_i64(rec + t.ROWS) == t.LOGITS_ROWS else t.NUM_TOKENS)
    )


@njit(nogil=True)
def has_adapters(rec, step):
    """Whether an adapter of this step changes what a record's linear computes."""
    if load_i64(step + t.HAS_ADAPTERS) == 0:
        return False
    is_active = load_i64(rec + t.LORA_IS_ACTIVE)
    return is_active != 0 and load_i64(is_active) != 0


@njit(nogil=True)
def weight_start_sum(x_start, x_scale, num_groups):
    """The row's dequantized sum, which a zero point other than 128 needs."""
    total = np.float32(0.0)
    for g in range(num_groups):
        total += np.float32(load_i32(x_start + 4 * g) // np.int32(-128)) * load_f32(x_scale + 4 * g)
    return total


@njit(nogil=True)
def scale_tile(rec, first, rows, panel, tile):
    """Sums of a tile to results, in place: zero point, scale and bias of each column."""
    is_scaled = load_i64(rec + t.NIBBLE_SCALE) != 0  # group by group, in the tile
    w_scale = load_i64(rec + t.W_SCALE) + 128 * panel
    w_zero, bias = load_i64(rec + t.W_ZERO), load_i64(rec + t.BIAS)
    for m in range(rows):
        row = tile + m * LD_TILE
        a, b = load_f32x16(row), load_f32x16(row + 64)
        if w_zero != 0:
            groups = load_i64(rec + t.NUM_GROUPS)
            offset = 4 * groups * (first + m)
            total = splat_f32(
                weight_start_sum(
                    load_i64(rec + t.X_START) + offset, load_i64(rec + t.X_SCALE) + offset, groups
                )
            )
            a = a - load_f32x16(w_zero + 128 * panel) * total
            b = b - load_f32x16(w_zero + 128 * panel + 64) * total
        if not is_scaled:
            a, b = a * load_f32x16(w_scale), b * load_f32x16(w_scale + 64)
        if bias != 0:
            a = a + load_f32x16(bias + 128 * panel)
            b = b + load_f32x16(bias + 128 * panel + 64)
        store_f32x16(row, a)
        store_f32x16(row + 64, b)


@njit(nogil=True)
def add_adapters(rec, step, first, rows, panel, next_panel, tile, scratch):
    """Add to a tile of results what each row's adapter makes of the row (B times the shrunk row).

    Each adapter's B for `next_panel` is asked for: a step reads it once, and from memory.
    """
    table, slot_bytes = load_i64(rec + t.LORA), load_i64(rec + t.LORA_SLOT_BYTES)
    over_rows = load_i64(rec + t.ROWS) == t.LOGITS_ROWS
    adapters = load_i64(step + (t.ROW_ADAPTERS if over_rows else t.TOKEN_ADAPTERS)) + 4 * first
    piece = np.int64(load_u8(load_i64(rec + t.PANEL_SLICE) + panel))
    shrunk = load_i64(rec + t.SHRUNK)
    groups = load_i64(shrunk + t.SHRUNK_GROUPS)
    ld_scale = 4 * groups * load_i64(rec + t.NUM_SLICES)
    ld = 8 * ld_scale
    x = load_i64(shrunk + t.SHRUNK_XQ) + first * ld + 32 * groups * piece
    scale = load_i64(shrunk + t.SHRUNK_SCALE) + first * ld_scale + 4 * groups * piece
    start = load_i64(shrunk + t.SHRUNK_START) + first * ld_scale + 4 * groups * piece
    m = 0
    while m < rows:
        adapter = load_i32(adapters + 4 * m)
        end = m + 1
        while end < rows and load_i32(adapters + 4 * end) == adapter:
            end += 1
        if adapter >= 0:
            entry = table + adapter * slot_bytes
            part = entry + piece * (t.SLICE_WORDS * t.WORD_BYTES)
            rank = load_i64(part + t.LORA_RANK)
            if rank > 0:
                num_steps = (rank + 3) // 4
                full, last = num_steps // 8, num_steps % 8
                panel_bytes = num_steps * LD_DELTA
                b = load_i64(part + t.LORA_B) + panel * panel_bytes
                prefetch_bytes(b + (next_panel - panel) * panel_bytes, panel_bytes)
                delta = scratch + DELTA
                multiply(
                    end - m,
                    b,
                    x + m * ld,
                    ld,
                    start + m * ld_scale,
                    ld_scale,
                    scale + m * ld_scale,
                    ld_scale,
                    full,
                    last,
                    delta,
                    LD_DELTA,
                    NOTHING,
                )
                b_scale = load_i64(entry + t.LORA_B_SCALE) + 128 * panel
                scale_a, scale_b = load_f32x16(b_scale), load_f32x16(b_scale + 64)
                for i in range(end - m):
                    row = tile + (m + i) * LD_TILE
                    low = load_f32x16(row) + load_f32x16(delta + 128 * i) * scale_a
                    high = load_f32x16(row + 64) + load_f32x16(delta + 128 * i + 64) * scale_b
                    store_f32x16(row, low)
                    store_f32x16(row + 64, high)
            scale_results(
                load_i64(entry + t.LORA_RESULT_SCALE),
                load_i64(entry + t.LORA_RESULT_SHIFT),
                end - m,
                panel,
                tile + m * LD_TILE,
            )
        m = end


@njit(nogil=True)
def scale_results(scale, shift, rows, panel, tile):
    """What an adapter does to finished results, y * scale + shift, in place; nothing where `scale` is 0."""
    if scale == 0:
        return
    scale += 128 * panel
    shift += 128 * panel
    for m in range(rows):
        for half in range(0, 128, 64):
            at = tile + m * LD_TILE + half
            scaled = load_f32x16(at) * load_f32x16(scale + half)
            store_f32x16(at, scaled + load_f32x16(shift + half))


@njit(nogil=True)
def store_tile(rec, first, rows, panel, tile):
    y, ldy = load_i64(rec + t.Y), load_i64(rec + t.LD_Y)
    for m in range(rows):
        row, target = tile + m * LD_TILE, y + (first + m) * ldy + 128 * panel
        store_f32x16(target, load_f32x16(row))
        store_f32x16(target + 64, load_f32x16(row + 64))


@njit(nogil=True)
def add_tile(rec, first, rows, panel, tile):
    """Add to the residual stream."""
    y, ldy = load_i64(rec + t.Y), load_i64(rec + t.LD_Y)
    factor = load_f32(rec + t.FACTOR)
    for m in range(rows):
        row, target = tile + m * LD_TILE, y + (first + m) * ldy + 128 * panel
        a, b = load_f32x16(row), load_f32x16(row + 64)
        if factor != np.float32(1.0):
            a, b = a * splat_f32(factor), b * splat_f32(factor)
        store_f32x16(target, load_f32x16(target) + a)
        store_f32x16(target + 64, load_f32x16(target + 64) + b)


@njit(nogil=True, error_model="numpy")
def logits_tile(rec, first, rows, panel, tile):
    finish_logits(rec, rows, tile)
    store_tile(rec, first, rows, panel, tile)


@njit(nogil=True, error_model="numpy")
def finish_logits(rec, rows, tile):
    """Divide and cap a tile of the head's results in place."""
    divisor, softcap = load_f32(rec + t.FACTOR), load_f32(rec + t.SOFTCAP)
    if divisor == np.float32(1.0) and softcap == np.float32(0.0):
        return
    for m in range(rows):
        for half in range(0, 128, 64):
            at = tile + m * LD_TILE + half
            logits = load_f32x16(at)
            if divisor != np.float32(1.0):
                logits = logits / splat_f32(divisor)
            if softcap != np.float32(0.0):
                logits = splat_f32(softcap) * tanh(logits / splat_f32(softcap))
            store_f32x16(at, logits)


@njit(nogil=True, error_model="numpy")
def gated(row, is_silu):
    """activation(gate) * up of a row of a tile."""
    a, b = load_f32x16(row), load_f32x16(row + 64)
    if is_silu:
        a, b = silu(a), silu(b)
    else:
        a, b = gelu_tanh(a), gelu_tanh(b)
    return a * load_f32x16(row + 128), b * load_f32x16(row + 192)


@njit(nogil=True)
def gate_tile(rec, first, rows, panel, tile):
    """activation(gate) * up of 32 features, which make one group of the next matmul's input."""
    xq, ld = load_i64(rec + t.OUT_XQ), load_i64(rec + t.OUT_LD_XQ)
    groups = load_i64(rec + t.OUT_GROUPS)
    scale, start = load_i64(rec + t.OUT_SCALE), load_i64(rec + t.OUT_START)
    is_silu = load_i64(rec + t.ACTIVATION) == t.SILU
    m = 0
    while (
        m + 1 < rows
    ):  # by two: one row alone is a chain of operations that leaves the core waiting
        a, b = gated(tile + m * LD_TILE, is_silu)
        c, d = gated(tile + (m + 1) * LD_TILE, is_silu)
        at = 4 * (groups * (first + m) + panel)
        here = xq + (first + m) * ld + 32 * panel
        quantize_two_groups(a, b, c, d, here, ld, scale + at, start + at, 4 * groups)
        m += 2
    if m < rows:
        a, b = gated(tile + m * LD_TILE, is_silu)
        at = 4 * (groups * (first + m) + panel)
        quantize_group(a, b, xq + (first + m) * ld + 32 * panel, scale + at, start + at)


@njit(nogil=True)
def matmul_panel(rec, first, rows, panel, tile, ahead):
    """Raw sums of a tile of rows with one panel of 32 columns."""
    groups = load_i64(rec + t.NUM_GROUPS)
    ld, ld_scale = load_i64(rec + t.LD_XQ), 4 * groups
    w = load_i64(rec + t.W) + panel * load_i64(rec + t.PANEL_BYTES)
    x = load_i64(rec + t.XQ) + first * ld
    start = load_i64(rec + t.X_START) + first * ld_scale
    scale = load_i64(rec + t.X_SCALE) + first * ld_scale
    w_scale = load_i64(rec + t.NIBBLE_SCALE)
    if w_scale == 0:
        multiply(
            rows, w, x, ld, start, ld_scale, scale, ld_scale, groups, NOTHING, tile, LD_TILE, ahead
        )
    else:
        w_scale += panel * groups * 128
        w_zero = load_i64(rec + t.NIBBLE_ZERO) + panel * groups * 32
        multiply_nibbles(
            rows,
            w,
            x,
            ld,
            start,
            ld_scale,
            scale,
            ld_scale,
            groups,
            tile,
            LD_TILE,
            w_scale,
            w_zero,
        )


@njit(nogil=True)
def matmul_chunk(rec, step, chunk, scratch):
    """A chunk of panels times all rows. A panel stays in the cache while the rows pass."""
    mode = load_i64(rec + t.MODE)
    panels = load_i64(rec + t.NUM_PANELS)
    if mode == t.GATE:
        panels //= 2
    per_chunk = load_i64(rec + t.PANELS_PER_CHUNK)
    panel_bytes = load_i64(rec + t.PANEL_BYTES)
    w = load_i64(rec + t.W)
    total = num_rows(rec, step)
    num_tiles = (total + MAX_ROWS - 1) // MAX_ROWS
    asked_bytes = load_i64(rec + t.NUM_GROUPS) * (64 * LINES_AHEAD)
    adds_adapters = has_adapters(rec, step)
    for panel in range(chunk * per_chunk, min(panels, (chunk + 1) * per_chunk)):
        # The next panel of this thread: of this chunk, or where its next chunk is likely to begin.
        next_panel = panel + 1
        if next_panel % per_chunk == 0:
            next_panel += per_chunk * load_i64(step + t.NUM_WORKERS)
        for index in range(num_tiles):
            first = total * index // num_tiles
            rows = total * (index + 1) // num_tiles - first
            # While rows pass over this panel the next one is asked for. A single tile of rows only
            # waits for the memory, and the processor's own prefetching serves it best.
            ahead = np.int64(0)
            if num_tiles > 1 and index < TILES_THAT_ASK:
                ahead = w + next_panel * panel_bytes + index * asked_bytes
            matmul_panel(rec, first, rows, panel, scratch, ahead)
            scale_tile(rec, first, rows, panel, scratch)
            if adds_adapters:
                add_adapters(rec, step, first, rows, panel, next_panel, scratch, scratch)
            if mode == t.GATE:
                upper = scratch + 128
                upper_ahead = ahead + panels * panel_bytes if ahead != 0 else ahead
                matmul_panel(rec, first, rows, panel + panels, upper, upper_ahead)
                scale_tile(rec, first, rows, panel + panels, upper)
                if adds_adapters:
                    add_adapters(
                        rec, step, first, rows, panel + panels, next_panel + panels, upper, scratch
                    )
                gate_tile(rec, first, rows, panel, scratch)
            elif mode == t.ADD:
                add_tile(rec, first, rows, panel, scratch)
            elif mode == t.LOGITS:
                logits_tile(rec, first, rows, panel, scratch)
            else:
                store_tile(rec, first, rows, panel, scratch)
