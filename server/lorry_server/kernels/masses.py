"""Weights of a distribution as integers, whose sums are the same in any order.

A token weighs e^(logit - largest logit) by `kernels.exp`, in units of 2^-42, rounded to even. So a
sum over the vocabulary is exact, and compiled code that adds in another order has the same bits.
What is lost is less than 2^-43 of the likeliest token's weight for each token, far less than the
rounding of a float32 weight. Vocabularies of up to 2^20 tokens fit in an int64.

Shape legend: N rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorry_server.kernels.exp import exp
from lorry_server.kernels.log import log

ONE = 2.0**42


def below_best(logits_NV: Tensor) -> Tensor:
    """Each logit less its row's largest one; where that is infinite, the logits themselves."""
    best_N1 = logits_NV.amax(-1, keepdim=True)
    return logits_NV - torch.where(best_N1.isfinite(), best_N1, 0.0)


def masses(below_NV: Tensor) -> Tensor:
    """int64 weights of what `below_best` gives."""
    return exp(below_NV).double().mul_(ONE).round_().long()


def log_of_mass(total_N: Tensor) -> Tensor:
    """The logarithm of a sum of masses, float64."""
    return log(total_N.double() * (1.0 / ONE))


def log_softmax(logits_NV: Tensor) -> Tensor:
    """Logprobs, float32: what each logit is below the logarithm of the sum, rounded once.

    Logits are finite.
    """
    best_N1 = logits_NV.amax(-1, keepdim=True)
    total_N = masses(logits_NV - best_N1).sum(-1)
    return (logits_NV.double() - best_N1.double()).sub_(log_of_mass(total_N)[:, None]).float()
