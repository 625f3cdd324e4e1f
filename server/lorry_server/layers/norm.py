"""RMSNorm (Zhang and Sennrich, 2019): the mean in float64, the rest in float32.

A sum in float64 that is rounded once to float32 does not show in which order it was added, so
every runner has the same bits.

Shape legend: D features that are normalised together, T tokens; of the leading dimensions the first is
that of the tokens, the others are free.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn


class NormAdapters(Protocol):
    """What gives tokens of a step another weight; attached from outside."""

    def weights(self, weight_D: Tensor, num_tokens: int) -> Tensor:
        """`weight_D` itself, or `weight_TD` where tokens of the step have one of their own."""
        ...


class RMSNorm(nn.Module):
    """`x / rms(x) * (offset + weight)`; `name` is the module's path in the checkpoint.

    `weight_D` has the offset in it.
    """

    weight_D: Tensor

    def __init__(
        self, name: str, *, size: int, eps: float, offset: float, device: torch.device
    ) -> None:
        super().__init__()
        self.name = name
        self.size = size
        self.offset = offset
        self.adapters: NormAdapters | None = None
        self._eps = eps
        self.register_buffer("weight_D", torch.empty(size, dtype=torch.float32, device=device))

    def load_(self, weight_D: Tensor) -> None:
        self.weight_D.copy_(weight_D.float() + self.offset)

    def forward(self, x_D: Tensor) -> Tensor:
        y_D = x_D.float()
        mean = y_D.double().square_().sum(dim=-1, keepdim=True).div_(self.size)
        rstd = mean.add_(self._eps).sqrt_().reciprocal_().float()
        weight = self.weight_D
        if self.adapters is not None:
            weight = self.adapters.weights(weight, len(x_D))
            if weight.dim() > 1:
                weight = weight.view(len(x_D), *(1,) * (x_D.dim() - 2), self.size)
        return (y_D * rstd).mul_(weight).to(x_D.dtype)
