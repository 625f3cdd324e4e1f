"""What PiSSA and OLoRA took from the base weights when training began, given back to the adapter.

Both begin with a low-rank part of the weight itself and leave the base without it. PEFT does it again
whenever such an adapter is loaded; here the part is subtracted from the update instead, so that the
base stays whole for everybody else:

    (W - W_r) x + B A x = W x + (B A - W_r) x

Shape legend: O output and I input features, R rank rows, Q at most 2 R.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lorry_server.lora.peft_tensors import LoraWeights


def without_initial_part(
    weights: LoraWeights, weight_OI: Tensor, *, initialization: str
) -> LoraWeights:
    """The update relative to the untouched base weight; its rank is at most twice as large."""
    first_OR, second_RI = initial_part(
        weight_OI.double(), weights.rank, initialization=initialization, scaling=weights.scaling
    )
    b_OQ = torch.cat((weights.b_OR.double(), -first_OR), dim=1)
    a_QI = torch.cat((weights.a_RI.double(), second_RI))
    a_QI, b_OQ = _balanced(a_QI, b_OQ)
    return LoraWeights(
        a_QI.float(),
        b_OQ.float(),
        magnitude_O=weights.magnitude_O,
        bias_O=weights.bias_O,
        scaling=weights.scaling,
    )


def initial_part(
    weight_OI: Tensor, rank: int, *, initialization: str, scaling: float
) -> tuple[Tensor, Tensor]:
    """`W_r` as a product of two matrices in the dtype of `weight_OI`, which is not changed.

    "pissa" (arXiv 2404.02948): the best approximation of that rank. "olora" (arXiv 2406.01775): the
    first columns of Q and rows of R of its QR decomposition, as PEFT subtracts them, with the scaling.
    """
    if initialization == "pissa":
        # the eigenvectors of the smaller of W W^T and W^T W are the singular vectors of W
        if weight_OI.shape[0] <= weight_OI.shape[1]:
            first_OR = torch.linalg.eigh(weight_OI @ weight_OI.T).eigenvectors[:, -rank:]
            return first_OR, first_OR.T @ weight_OI
        second_IR = torch.linalg.eigh(weight_OI.T @ weight_OI).eigenvectors[:, -rank:]
        return weight_OI @ second_IR, second_IR.T
    assert initialization == "olora"
    # the first columns of Q are those of the first columns of W
    first_OR = torch.linalg.qr(weight_OI[:, :rank]).Q
    return first_OR * scaling, first_OR.T @ weight_OI


def _balanced(a_QI: Tensor, b_OQ: Tensor) -> tuple[Tensor, Tensor]:
    """The same product by its singular vectors: two large parts that nearly cancel are added first.

    Bytes and bfloat16 would otherwise round each of them by more than they differ.
    """
    first_OQ, left_QQ = torch.linalg.qr(b_OQ)
    second_IQ, right_QQ = torch.linalg.qr(a_QI.T)
    u_QQ, s_Q, v_QQ = torch.linalg.svd(left_QQ @ right_QQ.T, full_matrices=False)
    root_Q = s_Q.sqrt()
    return root_Q[:, None] * (v_QQ @ second_IQ.T), (first_OQ @ u_QQ) * root_Q
