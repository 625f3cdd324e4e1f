"""Reference of the multi-LoRA product: every token adds its own adapter's low-rank update.

This is the specification that fast kernels are compared with: shrink (x A^T), then expand (B),
by segments of tokens that share an adapter, as in Punica's SGMV (arXiv 2310.18547).

Shape legend: T tokens, I input features, O output features, R rank rows of the pool, S slices
of a fused projection, P tokens of a segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class TokenSegment:
    """Tokens that use the adapter in pool rows `start` to `start + rank`.

    `tokens_P` (int64) indexes them; None means every token of the step, in order.
    """

    tokens_P: Tensor | None
    start: int
    rank: int


def lora_add_(
    y_TO: Tensor,
    x_TI: Tensor,
    a_RSI: Tensor,
    b_RSO: Tensor,
    segments: Sequence[TokenSegment],
) -> None:
    """Add to `y_TO`, in place, B A x of each segment's adapter.

    `a_RSI` holds the A rows of each slice of a fused projection, `b_RSO` the B rows with the
    scaling folded in, zero outside their own slice. All are of one float dtype; the products are
    in that dtype. Tokens outside every segment are left alone.
    """
    for segment in segments:
        rows = slice(segment.start, segment.start + segment.rank)
        a = a_RSI[rows].flatten(0, 1)
        b = b_RSO[rows].flatten(0, 1)
        if segment.tokens_P is None:
            y_TO.addmm_(x_TI @ a.T, b)
        else:
            shrunk = x_TI.index_select(0, segment.tokens_P) @ a.T
            y_TO.index_add_(0, segment.tokens_P, shrunk @ b)
