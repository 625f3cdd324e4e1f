"""RMSNorm (Zhang and Sennrich, 2019), computed in float32.

Shape legend: D features that are normalised together; leading dimensions are free.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


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
        return F.rms_norm(x_D.float(), (self.size,), self.weight_D, self._eps).to(x_D.dtype)
