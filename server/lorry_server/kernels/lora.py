"""Reference of the multi-LoRA product: every token adds its own adapter's low-rank update.

This is the specification that fast kernels are compared with: shrink (x A^T), then expand (B),
by segments of tokens that share an adapter, as in Punica's SGMV (arXiv 2310.18547).

Shape legend: T tokens, I input features, O output features, R ranks, P tokens of a segment.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenSegment:
    """Tokens that use the adapter in `slot`.

    `tokens_P` (int64) indexes them; None means every token of the step, in order.
    """

    tokens_P: Tensor | None
    slot: int


def lora_add_(
    y_TO: Tensor, x_TI: Tensor, a_RI: Tensor, b_RO: Tensor, tokens_P: Tensor | None
) -> None:
    """Add to `y_TO`, in place, B A x of one adapter to the tokens of its segment.

    The scaling is folded into `b_RO`. All are of one float dtype; the products are in that dtype.
    Tokens outside the segment are left alone.
    """
    if tokens_P is None:
        y_TO.addmm_(x_TI @ a_RI.T, b_RO)
    else:
        shrunk_PR = x_TI.index_select(0, tokens_P) @ a_RI.T
        y_TO.index_add_(0, tokens_P, shrunk_PR @ b_RO)
