"""RMSNorm (Zhang and Sennrich, 2019): the mean in float64, the rest in float32.

A sum in float64 that is rounded once to float32 does not show in which order it was added, so
every runner has the same bits.

Shape legend: D features that are normalised together; leading dimensions are free.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """`x / rms(x) * (offset + weight)`; `name` is the module's path in the checkpoint."""

    weight_D: Tensor

    def __init__(
        self, name: str, *, size: int, eps: float, offset: float, device: torch.device
    ) -> None:
        super().__init__()
        self.name = name
        self.size = size
        self._eps = eps
        self._offset = offset
        self.register_buffer("weight_D", torch.empty(size, dtype=torch.float32, device=device))

    def load_(self, weight_D: Tensor) -> None:
        self.weight_D.copy_(weight_D.float() + self._offset)

    def forward(self, x_D: Tensor) -> Tensor:
        y_D = x_D.float()
        mean = y_D.double().square_().sum(dim=-1, keepdim=True).div_(self.size)
        rstd = mean.add_(self._eps).sqrt_().reciprocal_().float()
        return (y_D * rstd).mul_(self.weight_D).to(x_D.dtype)
