"""Merging matrices of the same shape: prune each, agree on signs, add by weight.

TIES is arXiv 2306.01708 and DARE arXiv 2311.03099. Both were made for whole models; PEFT and LoRAX
apply them to the A and the B matrices of adapters, each by itself, and so do we: the results are
those of `peft.utils.merge_utils`.

Shape legend: P parts, X the shape of one matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor


def merge(
    matrices: Sequence[Tensor],
    weights: Sequence[float],
    *,
    method: str,
    density: float,
    majority_sign_method: str | None,
    generator: Generator,
) -> Tensor:
    """Return one float matrix made of at least one, all of the same shape.

    `method` is `ties`, `dare_linear`, `dare_ties` or `magnitude_prune`; `majority_sign_method` is
    only used by the two with ties. `generator` decides what DARE drops; the others draw nothing.
    """
    if method in ("dare_linear", "dare_ties"):
        pruned = [drop_and_rescale(matrix, density, generator) for matrix in matrices]
    else:
        pruned = [keep_largest(matrix, density) for matrix in matrices]
    stacked_PX = torch.stack(pruned)
    weights_P = torch.tensor(weights, dtype=stacked_PX.dtype)
    weighted_PX = stacked_PX * weights_P.view(-1, *[1] * (stacked_PX.dim() - 1))
    if method in ("dare_linear", "magnitude_prune"):
        return weighted_PX.sum(dim=0)
    agrees_PX = agreeing(stacked_PX, majority_sign_method=majority_sign_method)
    num_agreeing_X = agrees_PX.sum(dim=0)
    return (weighted_PX * agrees_PX).sum(dim=0) / num_agreeing_X.clamp(min=1)


def keep_largest(matrix_X: Tensor, density: float) -> Tensor:
    """Keep the `density` fraction of the values that is largest in magnitude; the rest is zero."""
    if density >= 1:
        return matrix_X
    flat = matrix_X.reshape(-1)
    kept = flat.abs().topk(int(density * flat.numel())).indices
    pruned = torch.zeros_like(flat)
    pruned[kept] = flat[kept]
    return pruned.reshape(matrix_X.shape)


def drop_and_rescale(matrix_X: Tensor, density: float, generator: Generator) -> Tensor:
    """Keep each value with probability `density`, divided by it: the mean stays what it was."""
    if density >= 1:
        return matrix_X
    is_kept_X = torch.bernoulli(torch.full_like(matrix_X, density), generator=generator)
    return matrix_X * is_kept_X / density


def agreeing(stacked_PX: Tensor, *, majority_sign_method: str | None) -> Tensor:
    """Which values have the sign that most have at their place, [P, X] bool.

    By `total` the larger sum of magnitudes is the majority, by `frequency` the larger number. A
    draw is positive, and zero agrees with nobody. Weights have no say in it.
    """
    votes_PX = stacked_PX if majority_sign_method == "total" else stacked_PX.sign()
    elected_X = torch.where(votes_PX.sum(dim=0) >= 0, 1.0, -1.0)
    return stacked_PX.sign() == elected_X
