"""Compiled keys and values, and attention over them, beside the references.

Shape legend: T tokens of the step, K key heads, G query heads for each key head, H head size,
P head size padded to 32, X queries by key head, token and query head.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from lorry_server.kernels.cpu.pack import padded
from lorry_server.kernels.symmetric_bytes import quantize_last
from tests.support.kernel_attention import NUM_BLOCKS, Heads, Layer
from tests.support.kernel_tape import Span, needs_kernels, same_bits

pytestmark = needs_kernels


def shuffled_blocks(
    lengths: Sequence[int], *, block_size: int = 16, seed: int = 0
) -> list[list[int]]:
    free = list(range(NUM_BLOCKS))
    random.Random(seed).shuffle(free)
    return [[free.pop() for _ in range(0, length, block_size)] for length in lengths]


def attend_in_steps(
    layer: Layer, steps: Sequence[Sequence[tuple[int, int]]], *, threads: int
) -> None:
    """Each step has a `(start, stop)` for each sequence; compare every one."""
    lengths = [max(stop for _, stop in spans) for spans in zip(*steps, strict=True)]
    blocks = shuffled_blocks(lengths, block_size=layer.heads.block_size, seed=len(lengths))
    for index, step in enumerate(steps):
        spans = [
            Span(start, stop, blocks[sequence])
            for sequence, (start, stop) in enumerate(step)
            if stop > start
        ]
        qkv_TNH = layer.random_heads(sum(span.stop - span.start for span in spans), seed=index)
        attended_TD, expected_TD = layer.compute(spans, qkv_TNH, num_threads=threads)
        assert bool(attended_TD.isfinite().all())
        assert same_bits(attended_TD, expected_TD)
    layer.assert_cache_equals()


KINDS = {
    "plain": Heads(rope_size=32),
    "no rotation": Heads(),
    "partial rotation": Heads(rope_size=12),
    "norms": Heads(rope_size=32, has_norms=True),
    "odd head": Heads(size=20, rope_size=20, has_norms=True),
    "small head": Heads(size=8, rope_size=4, kv_heads=3, group=1),
    "usual head": Heads(size=128, rope_size=128, kv_heads=1, group=4),
    "large head": Heads(size=72, rope_size=72, has_norms=True, kv_heads=1, group=2),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("block_size", [16, 64])
def test_keys_and_values_lie_in_their_slots_as_bytes(name: str, block_size: int) -> None:
    heads = replace(KINDS[name], block_size=block_size)
    layer = Layer(heads)
    first, second = shuffled_blocks([70, 31], block_size=block_size)

    layer.compute([Span(10, 60, first), Span(0, 31, second)], layer.random_heads(81), num_threads=2)

    layer.assert_cache_equals()


@pytest.mark.parametrize("name", KINDS)
def test_queries_lie_by_key_head_as_bytes(name: str) -> None:
    layer = Layer(KINDS[name])
    heads, qkv_TNH = layer.heads, layer.random_heads(17)

    layer.compute([Span(3, 20, shuffled_blocks([20])[0])], qkv_TNH)

    q_TKGH = torch.unflatten(
        layer.queries(qkv_TNH, torch.arange(3, 20)), 1, (heads.kv_heads, heads.group)
    )
    expected_KTGH, scale_KTG = quantize_last(q_TKGH.transpose(0, 1))
    count, size = 17 * heads.num, padded(heads.size)
    q8_XP = torch.from_numpy(layer.q8[: count * size].view(np.int8).reshape(count, size).copy())
    assert torch.equal(q8_XP[:, : heads.size], expected_KTGH.flatten(0, 2))
    assert not bool(q8_XP[:, heads.size :].any())
    scale_X = torch.from_numpy(layer.q8_scale[:count].copy())
    assert same_bits(scale_X, scale_KTG.flatten() * heads.scale)
    assert layer.q8_start[:count].tolist() == (-128 * q8_XP.sum(dim=1, dtype=torch.int32)).tolist()


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 100])
@pytest.mark.parametrize("block_size", [16, 32, 64])
def test_prompts_and_decoding_attend_as_the_reference(length: int, block_size: int) -> None:
    layer = Layer(Heads(rope_size=32, block_size=block_size))

    attend_in_steps(
        layer, [[(0, length)], *([(length + i, length + i + 1)] for i in range(3))], threads=1
    )


@pytest.mark.parametrize("group", range(1, 10))
@pytest.mark.parametrize("kv_heads", [1, 3])
def test_any_number_of_query_heads_shares_a_key_head(kv_heads: int, group: int) -> None:
    layer = Layer(Heads(kv_heads=kv_heads, group=group))

    attend_in_steps(
        layer, [[(0, 37), (0, 5)], [(37, 38), (5, 24)], [(38, 39), (24, 25)]], threads=2
    )


@pytest.mark.parametrize("window", [1, 2, 8, 16, 31, 32, 33, 64])
@pytest.mark.parametrize("softcap", [0.0, 5.0])
def test_windows_and_softcaps_attend_as_the_reference(softcap: float, window: int) -> None:
    layer = Layer(Heads(window=window, softcap=softcap))

    attend_in_steps(layer, [[(0, 50)], [(50, 97)], [(97, 98)], [(98, 99)]], threads=2)


@pytest.mark.parametrize("window", [0, 100])
def test_long_contexts_attend_as_the_reference(window: int) -> None:
    layer = Layer(Heads(rope_size=32, window=window))
    prompt = [[(start, start + 120)] for start in range(0, 600, 120)]

    attend_in_steps(layer, [*prompt, [(600, 601)], [(601, 606)], [(606, 700)]], threads=2)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("threads", [1, 3])
def test_mixed_steps_of_any_sizes_attend_as_the_reference(threads: int, name: str) -> None:
    choose = random.Random(f"{threads} {name}")
    layer = Layer(replace(KINDS[name], window=choose.choice([0, 20])))
    ends = [0] * 6
    steps = []
    for _ in range(6):
        grown = [end + choose.choice([0, 1, 1, 7, 16, 17]) for end in ends]
        if grown != ends:
            steps.append(list(zip(ends, grown, strict=True)))
        ends = grown

    attend_in_steps(layer, steps, threads=threads)


def test_a_cut_prompt_attends_as_a_whole_one() -> None:
    whole, cut = Layer(Heads()), Layer(Heads())
    blocks = shuffled_blocks([96])[0]
    qkv_TNH = whole.random_heads(96)
    whole_TD, _ = whole.compute([Span(0, 96, blocks)], qkv_TNH)

    parts = [
        cut.compute([Span(start, stop, blocks)], qkv_TNH[start:stop])[0]
        for start, stop in [(0, 1), (1, 17), (17, 50), (50, 96)]
    ]

    assert same_bits(torch.cat(parts), whole_TD)


def test_a_token_that_is_not_finite_spoils_its_own_sequence_only() -> None:
    layer = Layer(Heads(rope_size=32, has_norms=True))
    first, second = shuffled_blocks([40, 40])
    qkv_TNH = layer.random_heads(40)
    qkv_TNH[8] = torch.nan

    attended_TD, expected_TD = layer.compute(
        [Span(0, 20, first), Span(0, 20, second)], qkv_TNH, num_threads=2
    )

    is_sound_T = torch.tensor([index < 8 or index >= 20 for index in range(40)])
    assert same_bits(attended_TD[is_sound_T], expected_TD[is_sound_T])
    assert not bool(attended_TD[~is_sound_T].isfinite().any())
