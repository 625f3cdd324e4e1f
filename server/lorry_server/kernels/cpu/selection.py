"""How far down a row, from the largest value, tokens stay: by their number and by their mass.

Nothing is sorted. Tokens are counted and weighed in buckets by their distance from the largest; the
bucket where a limit is reached is taken apart by the bits of its values until all that is left in
it is equal, and of equals the lower id comes first.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from lorry_server.kernels.cpu.exp import exp
from lorry_server.kernels.cpu.logits_block import BUCKET_BYTES, BUCKETS_BYTES, NUM_BUCKETS
from lorry_server.kernels.cpu.masks import mask_equal_int
from lorry_server.kernels.cpu.masses import high_mass, low_mass
from lorry_server.kernels.cpu.simd import (
    float_bits,
    load_f32,
    load_f32x16,
    load_i32,
    load_i64,
    minimum,
    splat_f32,
    splat_i32,
    store_i32,
    store_i32x16,
    store_i64,
    store_i64x8,
    to_int,
)

PER_NAT = np.float32(16.0)  # buckets
EVERYTHING = np.int64(1 << 62)  # a limit that is never reached


@njit(nogil=True)
def bucket_of(values, top):
    """Of 16 values, none above `top`; -inf is in the last bucket."""
    distance = (splat_f32(top) - values) * splat_f32(PER_NAT)
    return to_int(minimum(distance, splat_f32(np.float32(NUM_BUCKETS - 1))))


@njit(nogil=True)
def clear(buckets):
    for index in range(NUM_BUCKETS):
        store_i64(buckets + BUCKET_BYTES * index, np.int64(0))
        store_i64(buckets + BUCKET_BYTES * index + 8, np.int64(0))


@njit(nogil=True)
def put(buckets, index, mass):
    bucket = buckets + BUCKET_BYTES * index
    store_i64(bucket, load_i64(bucket) + np.int64(1))
    store_i64(bucket + 8, load_i64(bucket + 8) + mass)


@njit(nogil=True)
def fill_buckets(values, logits, padded, value_top, logit_top, buckets, scratch):
    """Bucket every token by its value; its mass is of its logit. `scratch` has 192 bytes."""
    clear(buckets)
    best = splat_f32(logit_top)
    for k in range(0, padded, 16):
        weight = exp(load_f32x16(logits + 4 * k) - best)
        store_i64x8(scratch, low_mass(weight))
        store_i64x8(scratch + 64, high_mass(weight))
        store_i32x16(scratch + 128, bucket_of(load_f32x16(values + 4 * k), value_top))
        for lane in range(16):
            index = np.int64(load_i32(scratch + 128 + 4 * lane))
            put(buckets, index, load_i64(scratch + 8 * lane))


@njit(nogil=True)
def find_bucket(buckets, count, mass, max_count, max_mass):
    """The bucket where a limit is reached, and what lies before it; NUM_BUCKETS if none is."""
    for index in range(NUM_BUCKETS):
        bucket = buckets + BUCKET_BYTES * index
        here = load_i64(bucket)
        after = count + here
        mass_after = mass + load_i64(bucket + 8)
        if here > 0 and (after >= max_count or mass_after >= max_mass):
            return np.int64(index), count, mass
        count, mass = after, mass_after
    return np.int64(NUM_BUCKETS), count, mass


@njit(nogil=True)
def list_bucket(values, padded, top, index, ids):
    """Write the tokens of a bucket to `ids`, in order; returns how many there are."""
    length = np.int64(0)
    wanted = splat_i32(np.int32(index))
    for k in range(0, padded, 16):
        found = mask_equal_int(bucket_of(load_f32x16(values + 4 * k), top), wanted)
        if found != 0:
            for lane in range(16):
                if (found >> lane) & 1 != 0:
                    store_i32(ids + 4 * length, np.int32(k + lane))
                    length += 1
    return length


@njit(nogil=True)
def key_of(values, token):
    """An integer that orders as the value does; -0 is 0."""
    bits = np.int64(float_bits(load_f32(values + 4 * token) + np.float32(0.0)))
    return bits if bits >= 0 else bits ^ np.int64(0x7FFFFFFF)


@njit(nogil=True)
def mass_of(logits, token, top, scratch):
    """The mass of one token; see `masses`."""
    weight = exp(splat_f32(load_f32(logits + 4 * token) - top))
    store_i64x8(scratch, low_mass(weight))
    return load_i64(scratch)


@njit(nogil=True)
def select(
    values, logits, padded, value_top, logit_top, max_count, max_mass, buckets, ids, scratch
):
    """The last token that stays, or -1 if all do, and the mass of all that stay.

    A token stays while fewer than `max_count` stand before it and their mass is below `max_mass`;
    both are at least 1. `buckets` is what `fill_buckets` made of the same arguments; behind it is
    room for as many again. `ids` has room for the row.
    """
    index, count, mass = find_bucket(buckets, np.int64(0), np.int64(0), max_count, max_mass)
    if index == NUM_BUCKETS:
        return np.int64(-1), mass
    length = list_bucket(values, padded, value_top, index, ids)
    finer = buckets + BUCKETS_BYTES
    while True:
        least = most = key_of(values, np.int64(load_i32(ids)))
        for place in range(1, length):
            key = key_of(values, np.int64(load_i32(ids + 4 * place)))
            least, most = min(least, key), max(most, key)
        if least == most:
            break
        shift = np.int64(0)
        while (most - least) >> shift >= NUM_BUCKETS:
            shift += 1
        clear(finer)
        for place in range(length):
            token = np.int64(load_i32(ids + 4 * place))
            token_mass = mass_of(logits, token, logit_top, scratch)
            put(finer, (most - key_of(values, token)) >> shift, token_mass)
        index, count, mass = find_bucket(finer, count, mass, max_count, max_mass)
        kept = np.int64(0)
        for place in range(length):
            token = np.int64(load_i32(ids + 4 * place))
            if (most - key_of(values, token)) >> shift == index:
                store_i32(ids + 4 * kept, np.int32(token))
                kept += 1
        length = kept
    token_mass = mass_of(logits, np.int64(load_i32(ids)), logit_top, scratch)
    for place in range(length):
        count, mass = count + 1, mass + token_mass
        if count >= max_count or mass >= max_mass:
            return np.int64(load_i32(ids + 4 * place)), mass
    return np.int64(-1), mass  # not reached: the bucket was chosen for holding the limit
