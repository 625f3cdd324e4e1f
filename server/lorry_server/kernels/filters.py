"""The filters of sampling: which tokens of a distribution may be drawn at all.

Nucleus sampling is arXiv 1904.09751, min-p arXiv 2407.01082, typical sampling arXiv 2202.00666.
Tokens stand in the order of their logits, among equals the lower id first; masses and their limits
are integers (`kernels.masses`), so what stays does not depend on how it is computed.

Shape legend: N logits rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorry_server.kernels.log import log
from lorry_server.kernels.masses import below_best, log_of_mass, masses

UNLIKELY = 1000.0  # nats: more than any token with a mass
SURPRISE_UNIT = 2.0**-4  # of masses: sums of mass times surprise stay below 2^63


def filter_(
    logits_NV: Tensor,
    *,
    top_k_N: Tensor,
    top_p_N: Tensor,
    min_p_N: Tensor,
    typical_p_N: Tensor,
) -> None:
    """Set to -inf, in place, what the filters remove; at least one token of a row survives.

    `top_k` 0, `top_p` 1, `min_p` 0 and `typical_p` 1 are off. The mass that `top_p` is of is that
    of the tokens that `top_k` leaves; `typical_p` sees what all others leave.
    """
    vocab_size = logits_NV.shape[1]
    sorted_NV, order_NV = logits_NV.sort(dim=-1, descending=True, stable=True)
    below_NV = below_best(sorted_NV)
    rank_V = torch.arange(vocab_size, device=logits_NV.device)
    limit_N = torch.where(top_k_N > 0, top_k_N.long(), vocab_size)
    removed_NV = rank_V >= limit_N[:, None]
    masses_NV = masses(below_NV).masked_fill_(removed_NV, 0)
    is_nucleus_N = top_p_N < 1
    removed_NV |= _is_beyond(masses_NV, top_p_N) & is_nucleus_N[:, None]
    least_N = torch.where(min_p_N > 0, log(min_p_N.double().clamp(min=1e-300)), -torch.inf)
    removed_NV |= below_NV < least_N.float()[:, None]
    removed_NV[:, 0] = False
    sorted_NV.masked_fill_(removed_NV, -torch.inf)
    logits_NV.scatter_(1, order_NV, sorted_NV)
    is_typical_N = typical_p_N < 1
    if is_typical_N.any():
        kept = _typical(logits_NV[is_typical_N], typical_p_N[is_typical_N])
        logits_NV[is_typical_N] = kept


def _is_beyond(masses_NV: Tensor, share_N: Tensor) -> Tensor:
    """Whether the masses before a token have reached a share of their row's sum."""
    limit_N = (share_N.double() * masses_NV.sum(-1).double()).ceil().long().clamp(min=1)
    return (masses_NV.cumsum(-1) - masses_NV) >= limit_N[:, None]


def _typical(logits_NV: Tensor, typical_p_N: Tensor) -> Tensor:
    below_NV = below_best(logits_NV)
    masses_NV = masses(below_NV)
    total_N = masses_NV.sum(-1)
    surprise_NV = log_of_mass(total_N).float()[:, None] - below_NV
    finite_NV = surprise_NV.clamp(max=UNLIKELY).double()
    sums_N = finite_NV.mul_(masses_NV.double()).mul_(SURPRISE_UNIT).round_().long().sum(-1)
    entropy_N = (sums_N.double() / (total_N.double() * SURPRISE_UNIT)).float()
    distance_NV = (surprise_NV - entropy_N[:, None]).abs()
    _, order_NV = distance_NV.sort(dim=-1, stable=True)
    removed_NV = _is_beyond(masses_NV.gather(1, order_NV), typical_p_N)
    removed_NV[:, 0] = False
    return logits_NV.masked_fill(
        torch.zeros_like(removed_NV).scatter(1, order_NV, removed_NV), -torch.inf
    )
