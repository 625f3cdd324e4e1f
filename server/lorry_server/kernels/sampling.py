"""Reference of sampling: logits to token ids, each row by its own parameters.

Order of operations, as vLLM's: penalties, bias, temperature, then the filters (`kernels.filters`)
top-k, top-p, min-p and typical-p on the tempered distribution, then one draw. The draw is the Gumbel-max trick with
noise from a counter: it depends on (seed, position, token) alone, so a request gets the same
tokens whatever else is in the batch.

Shape legend: N logits rows, V vocabulary (logits width), K most alternatives of the step.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

# SplitMix64 (Steele, Lea and Flood, 2014): increment and the two multipliers of its finaliser,
# written as the signed 64-bit integers that torch computes with.
_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift of int64: torch's own keeps the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def gumbel_noise(seeds_N: Tensor, positions_N: Tensor, *, vocab_size: int) -> Tensor:
    """Standard Gumbel noise `[N, vocab_size]`, float32, a function of its arguments only."""
    row_N = _mix(_mix(seeds_N + _GOLDEN) + positions_N * _GOLDEN)
    tokens_V = torch.arange(1, vocab_size + 1, device=seeds_N.device) * _GOLDEN
    # 52 bits and a half: one bit more would round to 1 now and then, and its noise is infinite
    bits_NV = _shift_right(_mix(row_N[:, None] + tokens_V), 12)
    uniform_NV = (bits_NV.double() + 0.5) * 2.0**-52
    return -torch.log(-torch.log(uniform_NV)).float()


def apply_penalties_(
    logits_NV: Tensor,
    *,
    history_starts_N1: Tensor,
    history_ids: Tensor,
    prompt_lens_N: Tensor,
    presence_N: Tensor,
    frequency_N: Tensor,
    repetition_N: Tensor,
) -> None:
    """Penalise tokens seen before, in place; rows without a history are left alone.

    Repetition (CTRL, arXiv 1909.05858) divides positive logits and multiplies negative ones, for
    tokens of prompt and completion. Presence and frequency subtract, for the completion only.
    """
    vocab_size = logits_NV.shape[1]
    starts = history_starts_N1.tolist()
    for row, (start, end) in enumerate(pairwise(starts)):
        if start == end:
            continue
        ids = history_ids[start:end].long()
        logits = logits_NV[row]
        seen = torch.zeros(vocab_size, dtype=torch.bool, device=logits.device)
        seen[ids] = True
        factor = repetition_N[row]
        penalised = torch.where(logits > 0, logits / factor.expand_as(logits), logits * factor)
        logits.copy_(torch.where(seen, penalised, logits))
        counts = torch.bincount(ids[int(prompt_lens_N[row]) :], minlength=vocab_size)
        logits -= frequency_N[row] * counts + presence_N[row] * (counts > 0)


def apply_bias_(logits_NV: Tensor, *, starts_N1: Tensor, ids: Tensor, values: Tensor) -> None:
    """Add each row's biases to its logits, in place."""
    lengths = starts_N1.diff()
    rows = torch.repeat_interleave(
        torch.arange(len(lengths), device=logits_NV.device), lengths.long()
    )
    logits_NV.index_put_((rows, ids.long()), values, accumulate=True)


def best_tokens(logits_NV: Tensor, *, num_top: int) -> Tensor:
    """Ids of the `num_top` likeliest tokens of each row, likeliest first, of equals the lower id.

    Logits are finite. They and the ids make one integer that orders so: what a library does with
    equals is its own affair.
    """
    bits_NV = (logits_NV + 0.0).view(torch.int32)  # -0 is 0
    keys_NV = torch.where(bits_NV < 0, bits_NV ^ 0x7FFFFFFF, bits_NV).long() << 32
    keys_NV -= torch.arange(logits_NV.shape[1], device=logits_NV.device)
    return keys_NV.topk(num_top, dim=-1).indices
