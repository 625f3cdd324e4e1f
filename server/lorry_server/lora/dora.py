"""DoRA (arXiv 2402.09353): each row of the updated weight is as long as the adapter says.

Shape legend: O output and I input features, R rank rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 22  # of the updated weight, which is made a part at a time


def row_scale(weight_OI: Tensor, a_RI: Tensor, b_OR: Tensor, magnitude_O: Tensor) -> Tensor:
    """`m / ||W + b a||`, a float32 factor for each row of the product; the norm is of float32 rows.

    `weight_OI` may have any floating dtype. A row of zeros has no direction, and keeps its zeros.
    """
    num_rows = max(1, CHUNK_ELEMENTS // weight_OI.shape[1])
    norms = [
        torch.linalg.vector_norm(torch.addmm(part_OI.float(), part_OR, a_RI), dim=1)
        for part_OI, part_OR in zip(
            torch.split(weight_OI, num_rows), torch.split(b_OR, num_rows), strict=True
        )
    ]
    norm_O = torch.cat(norms)
    return torch.where(norm_O > 0, magnitude_O / norm_O, 1.0)


def column_scale(weight_VD: Tensor, a_RV: Tensor, b_DR: Tensor, magnitude_D: Tensor) -> Tensor:
    """The same of an embedding, whose columns have the magnitudes."""
    total_D = torch.zeros(weight_VD.shape[1], dtype=torch.float64)
    num_rows = max(1, CHUNK_ELEMENTS // weight_VD.shape[1])
    for part_VD, part_RV in zip(
        torch.split(weight_VD, num_rows), torch.split(a_RV, num_rows, dim=1), strict=True
    ):
        updated_VD = torch.addmm(part_VD.float(), part_RV.T, b_DR.T)
        total_D += updated_VD.double().square().sum(dim=0)
    norm_D = total_D.sqrt().float()
    return torch.where(norm_D > 0, magnitude_D / norm_D, 1.0)
