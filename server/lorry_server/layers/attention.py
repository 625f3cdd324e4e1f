"""`AttentionBackend`: how a model's layers reach the KV cache.

Shape legend: T tokens of the step, N query heads, K key and value heads, H head size.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class AttentionBackend(Protocol):
    """The attention of one step: knows which sequence each token belongs to and where it stands."""

    def attend(
        self,
        layer: int,
        q_TNH: Tensor,
        k_TKH: Tensor,
        v_TKH: Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Write the step's keys and values to the cache, then attend causally; returns `T, N, H`.

        Scores are `scale * q k`, then `softcap * tanh(score / softcap)` if there is a softcap. With
        a window a token sees the last `window` tokens of its sequence, itself among them. Query
        head n uses key head `n * K // N`.
        """
        ...
