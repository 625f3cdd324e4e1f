"""`BaseWeights`: the float weights that the base model was made from, as `lora.matching` asks for them."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class BaseWeights(Protocol):
    """Reads one tensor of the checkpoint at a time; the served model holds them in other forms."""

    def read(self, name: str) -> Tensor:
        """The tensor "model.layers.0.self_attn.q_proj.weight" and so on; KeyError if there is none.

        Of a head that is tied to the embedding it is the embedding. From any thread.
        """
        ...
