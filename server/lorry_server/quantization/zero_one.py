"""Zero-one weights: 0 stands for a layer's smallest weight, 255 for its largest.

One scale and one zero point serve a whole linear module of the checkpoint, so its few largest
weights set the step of all others.

Shape legend: I input features, R rows being loaded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorry_server.quantization.affine_rows import AffineRows

LARGEST_BYTE = 255


class ZeroOneWeight(AffineRows):
    """`scale = (max - min) / 255` and `zero = -min / scale`, which is not an integer."""

    def scale_and_zero(self, w_RI: Tensor) -> tuple[Tensor, Tensor]:
        smallest, largest = (extreme.float() for extreme in w_RI.aminmax())
        step = (largest - smallest) / LARGEST_BYTE
        # A constant layer c has no step; |c| * (0 - (-1 or 1)) is exactly c.
        magnitude = torch.where(smallest == 0, 1.0, smallest.abs())
        scale = torch.where(step > 0, step, magnitude)
        num_rows = len(w_RI)
        return scale.expand(num_rows), (-smallest / scale).expand(num_rows)

    def integers(self, w_RI: Tensor, scale_R1: Tensor, zero_R1: Tensor) -> Tensor:
        return (w_RI / scale_R1).add_(zero_R1).round_().clamp_(0, LARGEST_BYTE)


class ZeroOne:
    """The scheme named "zero-one"."""

    def create(
        self,
        out_features: int,
        *,
        in_features: int,
        is_head: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> ZeroOneWeight:
        return ZeroOneWeight(out_features, in_features=in_features, dtype=dtype, device=device)
