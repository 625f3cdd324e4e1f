"""Penalties and biases on a row of logits; `kernels.sampling` is the specification, to the bit."""

from __future__ import annotations

import numpy as np
from numba import njit

from lorry_server.kernels.cpu.simd import load_f32, load_i32, store_f32, store_i32

DONE = np.int32(-1)


@njit(nogil=True, error_model="numpy")
def penalise(logits, ids, length, prompt_length, presence, frequency, repetition, counts):
    """Penalise the tokens of a history of `length`. `counts` holds an int32 for each token."""
    for place in range(length):
        store_i32(counts + 4 * np.int64(load_i32(ids + 4 * place)), np.int32(0))
    for place in range(prompt_length, length):
        count = counts + 4 * np.int64(load_i32(ids + 4 * place))
        store_i32(count, load_i32(count) + np.int32(1))
    for place in range(length):
        token = np.int64(load_i32(ids + 4 * place))
        count = load_i32(counts + 4 * token)
        if count == DONE:
            continue
        store_i32(counts + 4 * token, DONE)
        logit = load_f32(logits + 4 * token)
        logit = logit / repetition if logit > np.float32(0.0) else logit * repetition
        was_made = np.float32(1.0) if count > 0 else np.float32(0.0)
        logit -= frequency * np.float32(count) + presence * was_made
        store_f32(logits + 4 * token, logit)


@njit(nogil=True)
def add_biases(logits, ids, values, count):
    for index in range(count):
        logit = logits + 4 * np.int64(load_i32(ids + 4 * index))
        store_f32(logit, load_f32(logit) + load_f32(values + 4 * index))
