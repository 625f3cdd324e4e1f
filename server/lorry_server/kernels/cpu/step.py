"""`run`: every worker walks the tape, claiming chunks; the one function that Python calls."""

from __future__ import annotations

import numpy as np
from numba import njit
from numba.core import types

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.attention import attend_chunk
from lorry_server.kernels.cpu.keys_and_values import keys_and_values_token
from lorry_server.kernels.cpu.lora import rows_per_shrink_chunk, shrink_chunk
from lorry_server.kernels.cpu.matmul import has_adapters, matmul_chunk, num_rows
from lorry_server.kernels.cpu.own_rows import own_rows_chunk
from lorry_server.kernels.cpu.rows import (
    add_normed_row,
    embed_row,
    gather_row,
    input_row,
    norm_and_quantize_row,
    quantize_to_record,
)
from lorry_server.kernels.cpu.second_part import call_second_part
from lorry_server.kernels.cpu.simd import load_i32, load_i64, store_i64
from lorry_server.kernels.cpu.threads import (
    STALE,
    add_shared,
    claim,
    cycles,
    let_loop_go_on,
    load_shared,
    replace_shared,
    sem_post,
    sem_wait,
    store_shared,
    wait_until_done,
)

ROWS_PER_CHUNK = 4  # of the operations on single rows, in large steps


@njit(nogil=True)
def rows_per_chunk(rows):
    return 1 if rows < 16 else ROWS_PER_CHUNK


@njit(nogil=True)
def num_chunks_of(rec, step):
    """Into how many chunks an operation falls in this step."""
    op = load_i64(rec + t.OP)
    rows = num_rows(rec, step)
    if rows == 0:
        return np.int64(0)
    if op == t.MATMUL or op == t.FLOAT_MATMUL:
        panels = load_i64(rec + t.NUM_PANELS)
        if load_i64(rec + t.MODE) == t.GATE:
            panels //= 2
        per_chunk = load_i64(rec + t.PANELS_PER_CHUNK)
        return (panels + per_chunk - 1) // per_chunk
    if op == t.ATTEND or op == t.FLOAT_ATTEND:
        return load_i64(step + t.NUM_ITEMS) * load_i64(rec + t.NUM_KV_HEADS)
    if op == t.SHRINK or op == t.FLOAT_SHRINK:
        if not has_adapters(rec, step):
            return np.int64(0)
        per_chunk = rows_per_shrink_chunk(rows) if op == t.SHRINK else rows_per_chunk(rows)
        return (rows + per_chunk - 1) // per_chunk
    if op == t.OWN_ROWS or op == t.FLOAT_OWN_ROWS:
        if load_i64(step + t.HAS_ADAPTERS) == 0:
            return np.int64(0)
        panels = load_i64(load_i64(rec + t.OWN_PANELS))
        return (panels + t.OWN_PANELS_PER_CHUNK - 1) // t.OWN_PANELS_PER_CHUNK
    per_chunk = 1 if op == t.SAMPLE else rows_per_chunk(rows)
    return (rows + per_chunk - 1) // per_chunk


@njit(nogil=True)
def run_chunk(rec, step, chunk, scratch):
    op = load_i64(rec + t.OP)
    if op == t.MATMUL:
        matmul_chunk(rec, step, chunk, scratch)
    elif op == t.ATTEND:
        attend_chunk(rec, step, chunk, scratch)
    elif op == t.SHRINK:
        shrink_chunk(rec, step, chunk, scratch)
    elif op == t.OWN_ROWS:
        own_rows_chunk(rec, step, chunk, scratch)
    elif op == t.FLOAT_MATMUL or op == t.FLOAT_ATTEND or op == t.FLOAT_OWN_ROWS:
        call_second_part(load_i64(step + t.SECOND_PART), rec, step, chunk, scratch)
    elif op == t.SAMPLE:
        call_second_part(load_i64(rec + t.SAMPLE_CODE), rec, step, chunk, scratch)
    else:
        rows = num_rows(rec, step)
        per_chunk = rows_per_chunk(rows)
        for row in range(chunk * per_chunk, min(rows, (chunk + 1) * per_chunk)):
            if op == t.NORM:
                norm_and_quantize_row(rec, step, row, scratch)
            elif op == t.QUANTIZE:
                quantize_to_record(rec, row, input_row(rec, row))
            elif op == t.KEYS_AND_VALUES:
                keys_and_values_token(rec, step, row, scratch)
            elif op == t.EMBED:
                embed_row(rec, step, row)
            elif op == t.GATHER:
                gather_row(rec, step, row)
            elif op == t.ADD_NORMED:
                add_normed_row(rec, step, row, scratch)
            else:
                call_second_part(load_i64(step + t.SECOND_PART), rec, step, row, scratch)


@njit(nogil=True)
def list_items(step):
    """Cut each sequence's queries into items; they and key heads make the chunks of attention."""
    starts = load_i64(step + t.QUERY_STARTS)
    items = load_i64(step + t.ITEMS)
    count = np.int64(0)
    for sequence in range(load_i64(step + t.NUM_SEQUENCES)):
        first = np.int64(load_i32(starts + 4 * sequence))
        end = np.int64(load_i32(starts + 4 * sequence + 4))
        while first < end:
            item = items + count * t.ITEM_BYTES
            taken = min(end - first, np.int64(t.QUERIES_PER_ITEM))
            store_i64(item, np.int64(sequence))
            store_i64(item + 8, first)
            store_i64(item + 16, taken)
            first += taken
            count += 1
    store_i64(step + t.NUM_ITEMS, count)


@njit(nogil=True)
def walk(step, epoch, scratch, worker):
    """Take part in a step until it is over."""
    tape, chunks = load_i64(step + t.TAPE), load_i64(step + t.NUM_CHUNKS)
    claimed, done = load_i64(step + t.CLAIMED), load_i64(step + t.DONE)
    loop_activity = load_i64(step + t.LOOP_ACTIVITY)
    phase_cycles = load_i64(step + t.PHASE_CYCLES) if worker == 0 else np.int64(0)
    began = cycles() if phase_cycles != 0 else np.int64(0)
    for phase in range(load_i64(step + t.NUM_OPS)):
        rec = tape + phase * (t.WORDS * t.WORD_BYTES)
        num_chunks = load_i64(chunks + 8 * phase)
        if num_chunks == 0:
            continue
        while True:
            let_loop_go_on(loop_activity)
            chunk = claim(claimed + phase * t.COUNTER_BYTES, epoch, num_chunks)
            if chunk == STALE:
                return
            if chunk < 0:
                break
            run_chunk(rec, step, chunk, scratch)
            add_shared(done + phase * t.COUNTER_BYTES, np.int64(1))
        if not wait_until_done(done + phase * t.COUNTER_BYTES, epoch, num_chunks):
            return
        if phase_cycles != 0:
            now = cycles()
            store_i64(phase_cycles + 8 * phase, load_i64(phase_cycles + 8 * phase) + now - began)
            began = now
    # The first worker at the end has seen every chunk done.
    if replace_shared(step + t.FINISHED, epoch - 1, epoch):
        sem_post(load_i64(step + t.CALLER))


@njit(nogil=True)
def begin(step):
    """Lay out the step's chunks and wake the workers."""
    list_items(step)
    epoch = load_i64(step + t.EPOCH) + 1
    tape, chunks = load_i64(step + t.TAPE), load_i64(step + t.NUM_CHUNKS)
    claimed, done = load_i64(step + t.CLAIMED), load_i64(step + t.DONE)
    for phase in range(load_i64(step + t.NUM_OPS)):
        rec = tape + phase * (t.WORDS * t.WORD_BYTES)
        store_i64(chunks + 8 * phase, num_chunks_of(rec, step))
        store_shared(done + phase * t.COUNTER_BYTES, epoch << 32)
        store_shared(claimed + phase * t.COUNTER_BYTES, epoch << 32)
    store_shared(step + t.EPOCH, epoch)
    semaphores = load_i64(step + t.SEMAPHORES)
    for worker in range(load_i64(step + t.NUM_WORKERS)):
        sem_post(semaphores + worker * t.SEMAPHORE_BYTES)


@njit(types.void(types.int64, types.int64), nogil=True, cache=True)
def run(step, worker):
    """A worker, numbered from 0, takes part in all steps until the block says to stop.

    With NO_WORKER, have the workers compute one step and sleep until it is over. `step` is
    the address of a step block.
    """
    if worker == t.NO_WORKER:
        begin(step)
        while sem_wait(load_i64(step + t.CALLER)) != 0:
            continue  # a signal woke it
        return
    scratch = load_i64(step + t.SCRATCH) + worker * load_i64(step + t.SCRATCH_BYTES)
    semaphore = load_i64(step + t.SEMAPHORES) + worker * t.SEMAPHORE_BYTES
    while True:
        if sem_wait(semaphore) != 0:
            continue
        if load_shared(step + t.STOP) != 0:
            return
        walk(step, load_shared(step + t.EPOCH), scratch, worker)
