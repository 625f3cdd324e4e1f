"""How large an adapter's updates are: the Frobenius norm ||s B A|| of each module.

Shape legend: R rank rows, I input and O output features.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from lorry_server.lora.adapter import LoraWeights

MAX_NAMES = 20


@dataclass(frozen=True, slots=True)
class UpdateNorms:
    """Over all modules; `zero` names modules whose update is nothing, at most 20 of `num_zero`."""

    smallest: float
    median: float
    largest: float
    smallest_module: str
    largest_module: str
    num_zero: int
    zero: tuple[str, ...]


def update_norms(modules: Mapping[str, LoraWeights]) -> dict[str, float]:
    """The norm of every module's update, the scaling included; infinite where it overflows."""
    return {module: _norm(weights) for module, weights in modules.items()}


def summarize(norms: Mapping[str, float]) -> UpdateNorms:
    """Raises ValueError where there is no module."""
    zero = sorted(module for module, norm in norms.items() if norm == 0)
    smallest, largest = min(norms, key=norms.__getitem__), max(norms, key=norms.__getitem__)
    return UpdateNorms(
        smallest=norms[smallest],
        median=statistics.median(norms.values()),
        largest=norms[largest],
        smallest_module=smallest,
        largest_module=largest,
        num_zero=len(zero),
        zero=tuple(zero[:MAX_NAMES]),
    )


def _norm(weights: LoraWeights) -> float:
    """sqrt(trace(B^T B A A^T)): two products of R x R instead of one of O x I."""
    a_gram_RR = weights.a_RI @ weights.a_RI.T
    b_gram_RR = weights.b_OR.T @ weights.b_OR
    square = float(torch.sum(a_gram_RR.double() * b_gram_RR.double()))
    return math.sqrt(max(square, 0.0))
