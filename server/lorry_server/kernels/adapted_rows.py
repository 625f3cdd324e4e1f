"""Reference of what adapters do beyond adding B A x: to a product's results, and to embeddings.

This is the specification that fast kernels are compared with. All of it is float32, one operation
after the other in the order written, each rounded by itself; what comes out is rounded to the model's
dtype.

Of a product to which the adapter's update has been added,

    y = y * scale + shift

makes DoRA (arXiv 2402.09353) and trained biases: with magnitudes m, `scale = m / ||W + B A||` of
each row of the weight, and `shift = bias' - scale * bias`, because the bias of the base, which is in
`y` by then, is not scaled.

The embedding of a token, the base's or the adapter's own, becomes

    x = x * scale + (((0 + a[0] * b[0]) + a[1] * b[1]) + ...)

with the token's column a of the adapter's A. Rank by rank, a row depends on no other row of the step,
and there are few ranks.

Shape legend: T tokens, O output features, R ranks, D hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor


def scale_and_shift(y_TO: Tensor, scale_O: Tensor, shift_O: Tensor) -> Tensor:
    """`y * scale + shift` in the dtype of `y_TO`; the others are float32."""
    return (y_TO.float() * scale_O).add_(shift_O).to(y_TO.dtype)


def embedding_update(a_TR: Tensor, b_RD: Tensor) -> Tensor:
    """What LoRA adds to the embeddings of T tokens, whose columns of A are the rows of `a_TR`."""
    sum_TD = torch.zeros(len(a_TR), b_RD.shape[1], device=b_RD.device)
    for rank, b_D in enumerate(b_RD):
        sum_TD.add_(a_TR[:, rank, None] * b_D)
    return sum_TD
