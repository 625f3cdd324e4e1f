from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from lorry_server.kernels.exp import exp, tanh
from lorry_server.kernels.int8_attention import TOKEN_GROUP, Int8Slots, int8_attention
from lorry_server.kernels.paged_attention import QueryGroup, group_queries, paged_attention
from lorry_server.kernels.symmetric_bytes import quantize_last

CPU = torch.device("cpu")
HEAD = 16
NUM_HEADS, NUM_KV_HEADS = 6, 2
BLOCK_SIZE, NUM_BLOCKS = 16, 64
SCALE = 0.3


@dataclass(frozen=True, slots=True)
class Sequence:
    """All queries, keys and values of a sequence, and the blocks that it is given."""

    q_LNH: Tensor
    k_LKH: Tensor
    v_LKH: Tensor
    blocks: list[int]

    @property
    def length(self) -> int:
        return len(self.q_LNH)


def sequences(*lengths: int) -> list[Sequence]:
    generator = torch.Generator().manual_seed(3)
    free = np.random.default_rng(0).permutation(NUM_BLOCKS).tolist()
    made = []
    for length in lengths:
        q_LNH = 2 * torch.randn(length, NUM_HEADS, HEAD, generator=generator)
        k_LKH, v_LKH = torch.randn(2, length, NUM_KV_HEADS, HEAD, generator=generator)
        made.append(
            Sequence(q_LNH, k_LKH, v_LKH, [free.pop() for _ in range(0, length, BLOCK_SIZE)])
        )
    return made


def slots_of(sequence: Sequence) -> Tensor:
    positions = np.arange(sequence.length)
    blocks = np.array(sequence.blocks)[positions // BLOCK_SIZE]
    return torch.from_numpy(blocks * BLOCK_SIZE + positions % BLOCK_SIZE)


def cache_of(given: list[Sequence], *, is_stale_nan: bool = True) -> tuple[Int8Slots, Int8Slots]:
    """The whole cache; slots that nobody wrote hold bytes and NaN, as a failed sequence leaves."""
    stale = torch.nan if is_stale_nan else 5.0
    keys, values = (
        Int8Slots(
            torch.full((NUM_KV_HEADS, NUM_BLOCKS * BLOCK_SIZE, HEAD), 99, dtype=torch.int8),
            torch.full((NUM_KV_HEADS, NUM_BLOCKS * BLOCK_SIZE), stale),
        )
        for _ in range(2)
    )
    for sequence in given:
        keys.write(sequence.k_LKH, slots_of(sequence))
        values.write(sequence.v_LKH, slots_of(sequence))
    return keys, values


def groups_of(given: list[Sequence], starts: list[int], stops: list[int]) -> list[QueryGroup]:
    """The step that computes tokens `start : stop` of every sequence."""
    tables = np.zeros((len(given), max(len(sequence.blocks) for sequence in given)), np.int32)
    for index, sequence in enumerate(given):
        tables[index, : len(sequence.blocks)] = sequence.blocks
    spans = list(zip(starts, stops, strict=True))
    return group_queries(
        positions_T=np.concatenate([np.arange(*span) for span in spans]).astype(np.int32),
        query_starts_S1=np.cumsum([0, *(stop - start for start, stop in spans)]).astype(np.int32),
        context_lens_S=np.array(stops, np.int32),
        block_tables_SM=tables,
        block_size=BLOCK_SIZE,
        device=CPU,
        context_multiple=TOKEN_GROUP,
    )


def attend(
    given: list[Sequence],
    starts: list[int],
    stops: list[int],
    *,
    window: int | None = None,
    softcap: float | None = None,
) -> list[Tensor]:
    q_TNH = torch.cat(
        [s.q_LNH[start:stop] for s, start, stop in zip(given, starts, stops, strict=True)]
    )
    out_TNH = int8_attention(
        q_TNH,
        *cache_of(given),
        groups_of(given, starts, stops),
        scale=SCALE,
        window=window,
        softcap=softcap,
    )
    sizes = [stop - start for start, stop in zip(starts, stops, strict=True)]
    return list(torch.split(out_TNH, sizes))


def attend_whole(sequence: Sequence, **options: float | None) -> Tensor:
    return attend([sequence], [0], [sequence.length], **options)[0]  # type: ignore[arg-type]  # a window is an int


def by_hand(
    sequence: Sequence, position: int, *, window: int | None, softcap: float | None
) -> Tensor:
    """The formula of the specification, for one query, one head after the other."""
    f = np.float32
    out_NH = torch.empty(NUM_HEADS, HEAD)
    first = 0 if window is None else max(0, position - window + 1)
    qq, sq = quantize_last(sequence.q_LNH[position])
    kq, sk = quantize_last(sequence.k_LKH)
    vq, sv = quantize_last(sequence.v_LKH)
    for head in range(NUM_HEADS):
        kv_head = head * NUM_KV_HEADS // NUM_HEADS
        factor = sq[head].numpy() * f(SCALE)
        scores = []
        for t in range(first, position + 1):
            d = int((qq[head].int() * kq[t, kv_head].int()).sum())
            score = (f(d) * factor) * sk[t, kv_head].numpy()
            if softcap is not None:
                score = f(softcap) * tanh(torch.tensor([score / f(softcap)])).numpy()[0]
            scores.append(score)
        p = exp(torch.tensor(np.array(scores) - max(scores))).numpy()
        total = f(sum(float(x) for x in p))
        acc = np.zeros(HEAD, np.float32)
        for start in range(first // 32 * 32, position + 1, 32):
            members = [t for t in range(start, start + 32) if first <= t <= position]
            w = [p[t - first] * sv[t, kv_head].numpy() for t in members]
            m = max(*w, f(1e-30))
            pq = [int(np.rint(x * (f(255) / m))) for x in w]
            d = sum(
                b * vq[t, kv_head].numpy().astype(np.int64)
                for b, t in zip(pq, members, strict=True)
            )
            acc = acc + d.astype(np.float32) * (m / f(255))
        out_NH[head] = torch.from_numpy(acc / total)
    return out_NH


@pytest.mark.parametrize("window", [None, 37])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_attention_has_the_bits_of_the_formula_by_hand(
    window: int | None, softcap: float | None
) -> None:
    (sequence,) = sequences(100)

    out_LNH = attend_whole(sequence, window=window, softcap=softcap)

    for position in (0, 1, 31, 32, 63, 99):
        expected_NH = by_hand(sequence, position, window=window, softcap=softcap)
        assert torch.equal(out_LNH[position], expected_NH)


@pytest.mark.parametrize("window", [None, 37])
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_attention_is_near_that_of_a_float_cache(window: int | None, softcap: float | None) -> None:
    given = sequences(90, 1, 33)
    lengths = [s.length for s in given]
    k_KCH, v_KCH = torch.zeros(2, NUM_KV_HEADS, NUM_BLOCKS * BLOCK_SIZE, HEAD)
    for sequence in given:
        k_KCH[:, slots_of(sequence)] = sequence.k_LKH.transpose(0, 1)
        v_KCH[:, slots_of(sequence)] = sequence.v_LKH.transpose(0, 1)
    exact_TNH = paged_attention(
        torch.cat([s.q_LNH for s in given]),
        k_KCH,
        v_KCH,
        groups_of(given, [0, 0, 0], lengths),
        scale=SCALE,
        window=window,
        softcap=softcap,
    )

    out_TNH = torch.cat(attend(given, [0, 0, 0], lengths, window=window, softcap=softcap))

    assert (out_TNH - exact_TNH).norm() / exact_TNH.norm() < 0.02


@pytest.mark.parametrize("window", [None, 20])
def test_a_prompt_has_the_same_bits_however_it_is_cut(window: int | None) -> None:
    (sequence,) = sequences(100)
    whole_LNH = attend_whole(sequence, window=window)

    for borders in ([0, 1, 2, 35, 100], [0, 32, 64, 99, 100], list(range(101))):
        chunks = [
            attend([sequence], [start], [stop], window=window)[0]
            for start, stop in pairwise(borders)
        ]
        assert torch.equal(torch.cat(chunks), whole_LNH)


def test_a_decode_has_the_same_bits_in_any_batch() -> None:
    given = sequences(1, 17, 100, 32, 33, 64, 250)
    alone = [attend([s], [s.length - 1], [s.length])[0] for s in given]

    together = attend(given, [s.length - 1 for s in given], [s.length for s in given])

    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


def test_decodes_and_prefills_of_one_step_do_not_touch_each_other() -> None:
    given = sequences(40, 70, 100)
    alone = [attend_whole(given[0]), attend([given[1]], [69], [70])[0]]

    together = attend(given, [0, 69, 20], [40, 70, 100])

    assert torch.equal(together[0], alone[0])
    assert torch.equal(together[1], alone[1])


def test_a_value_that_is_not_finite_stays_in_its_own_sequence() -> None:
    good, bad = sequences(40, 40)
    expected_LNH = attend_whole(good)
    bad.k_LKH[3, 0, 0] = torch.nan
    bad.v_LKH[5, 1, 0] = torch.inf

    together = attend([good, bad], [39, 39], [40, 40])

    assert torch.equal(together[0][0], expected_LNH[39])
    assert not bool(together[1].isfinite().any())


def test_queries_far_apart_in_score_give_the_best_tokens_value() -> None:
    (sequence,) = sequences(64)
    sequence.k_LKH[:] = 0
    sequence.k_LKH[50] = 1
    sequence.q_LNH[:] = 100

    out_LNH = attend_whole(sequence)

    error_KH = out_LNH[63, :: NUM_HEADS // NUM_KV_HEADS] - sequence.v_LKH[50]
    assert error_KH.abs().max() < 0.02
