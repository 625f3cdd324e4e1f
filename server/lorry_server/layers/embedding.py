"""`EmbeddingPlace`: where adapters may change a model's embedding.

Shape legend: T tokens, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


class EmbeddingAdapters(Protocol):
    """What changes the embeddings of the step's tokens; attached from outside."""

    def apply_(self, x_TD: Tensor, token_ids_T: Tensor) -> None:
        """Change in place the embeddings `x_TD` of tokens whose adapter asks for it.

        They are rows of the weight, which the model has not scaled yet.
        """
        ...


@dataclass(slots=True)
class EmbeddingPlace:
    """`name` is the module's path in the checkpoint; `is_tied` says that the head is its weight."""

    name: str
    num_tokens: int
    size: int
    is_tied: bool
    adapters: EmbeddingAdapters | None = field(default=None, compare=False)

    def adapt_(self, x_TD: Tensor, token_ids_T: Tensor) -> None:
        """Let the adapters, if any are attached, change the embeddings of a step."""
        if self.adapters is not None:
            self.adapters.apply_(x_TD, token_ids_T)
