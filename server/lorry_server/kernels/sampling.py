"""Reference of sampling: logits to token ids, each row by its own parameters.

Order of operations, as vLLM's: penalties, bias, temperature, then the filters top-k, top-p, min-p
and typical-p on the tempered distribution, then one draw. The draw is the Gumbel-max trick with
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
    bits_NV = _shift_right(_mix(row_N[:, None] + tokens_V), 11)
    uniform_NV = (bits_NV.double() + 0.5) * 2.0**-53
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
        penalised = torch.where(logits > 0, logits / factor, logits * factor)
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


def filter_(
    logits_NV: Tensor,
    *,
    top_k_N: Tensor,
    top_p_N: Tensor,
    min_p_N: Tensor,
    typical_p_N: Tensor,
) -> None:
    """Set to -inf, in place, what the filters remove; at least one token of a row survives.

    `top_k` 0, `top_p` 1, `min_p` 0 and `typical_p` 1 are off. Nucleus sampling is arXiv
    1904.09751, min-p arXiv 2407.01082, typical sampling arXiv 2202.00666.
    """
    vocab_size = logits_NV.shape[1]
    sorted_NV, order_NV = logits_NV.sort(dim=-1, descending=True, stable=True)
    rank_V = torch.arange(vocab_size, device=logits_NV.device)
    limit_N = torch.where(top_k_N > 0, top_k_N.long(), vocab_size)
    removed_NV = rank_V >= limit_N[:, None]
    probs_NV = sorted_NV.masked_fill(removed_NV, -torch.inf).softmax(-1)
    # A token stays while the mass before it has not reached top_p.
    removed_NV |= (probs_NV.cumsum(-1) - probs_NV) >= top_p_N[:, None]
    removed_NV |= probs_NV < min_p_N[:, None] * probs_NV[:, :1]
    removed_NV[:, 0] = False
    sorted_NV.masked_fill_(removed_NV, -torch.inf)
    logits_NV.scatter_(1, order_NV, sorted_NV)
    is_typical_N = typical_p_N < 1
    if is_typical_N.any():
        kept = _typical(logits_NV[is_typical_N], typical_p_N[is_typical_N])
        logits_NV[is_typical_N] = kept


def _typical(logits_NV: Tensor, typical_p_N: Tensor) -> Tensor:
    logprobs_NV = logits_NV.log_softmax(-1)
    probs_NV = logprobs_NV.exp()
    entropy_N = -(probs_NV * logprobs_NV.clamp(min=-1e30)).sum(-1)
    surprise_NV = (-logprobs_NV - entropy_N[:, None]).abs()
    _, order_NV = surprise_NV.sort(dim=-1, stable=True)
    mass_NV = probs_NV.gather(1, order_NV).cumsum(-1)
    removed_NV = (mass_NV - probs_NV.gather(1, order_NV)) >= typical_p_N[:, None]
    removed_NV[:, 0] = False
    return logits_NV.masked_fill(
        torch.zeros_like(removed_NV).scatter(1, order_NV, removed_NV), -torch.inf
    )


def top_logprobs(logprobs_NV: Tensor, *, num_top: int) -> tuple[Tensor, Tensor]:
    """The `num_top` likeliest tokens of each row and their logprobs, likeliest first."""
    values_NK, ids_NK = logprobs_NV.topk(num_top, dim=-1)
    return ids_NK, values_NK
