"""Int8 weights: symmetric rows, with one scale for each.

Shape legend: I input features, R rows being loaded.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorry_server.kernels.affine_matmul import MIDDLE
from lorry_server.kernels.symmetric_bytes import LARGEST
from lorry_server.quantization.affine_rows import AffineRows


class Int8Weight(AffineRows):
    """The largest magnitude of a row becomes 127 away from the zero point, which is 128."""

    def scale_and_zero(self, w_RI: Tensor) -> tuple[Tensor, Tensor]:
        smallest_R, largest_R = w_RI.aminmax(dim=1)
        scale_R = torch.maximum(largest_R, -smallest_R).float() / LARGEST
        return scale_R, torch.full_like(scale_R, MIDDLE)

    def integers(self, w_RI: Tensor, scale_R1: Tensor, zero_R1: Tensor) -> Tensor:
        divisor_R1 = torch.where(scale_R1 > 0, scale_R1, 1.0)  # a row of zeros stays zeros
        return (w_RI / divisor_R1).round_().add_(zero_R1)


class Int8:
    """The scheme named "int8"."""

    def create(
        self,
        out_features: int,
        *,
        in_features: int,
        is_head: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Int8Weight:
        return Int8Weight(out_features, in_features=in_features, dtype=dtype, device=device)
