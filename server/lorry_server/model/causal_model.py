"""`CausalModel`: what a runner needs of a decoder, our own or one of transformers'.

Shape legend: T tokens of the step, D hidden size, N logits rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from lorry_server.layers.attention import AttentionBackend
from lorry_server.layers.embedding import EmbeddingPlace
from lorry_server.layers.linear import Linear
from lorry_server.layers.norm import RMSNorm
from lorry_server.model.base_weights import CheckpointWeights


class CausalModel(Protocol):
    """A decoder without a KV cache of its own: the tokens of a step, of any sequences, flat."""

    @property
    def num_layers(self) -> int: ...

    @property
    def num_heads(self) -> int: ...

    @property
    def num_kv_heads(self) -> int: ...

    @property
    def head_dim(self) -> int: ...

    @property
    def vocab_size(self) -> int:
        """Width of the logits: may be more than the tokenizer has tokens."""
        ...

    @property
    def max_position(self) -> int:
        """Tokens of the longest sequence that the model was made for."""
        ...

    @property
    def embedding(self) -> EmbeddingPlace | None:
        """Where adapters change the embedding; None where they cannot."""
        ...

    @property
    def base_weights(self) -> CheckpointWeights | None:
        """The tensors that it was loaded from, by their names in the checkpoint."""
        ...

    def forward(
        self, token_ids_T: Tensor, positions_T: Tensor, attention: AttentionBackend
    ) -> Tensor:
        """Hidden states `T, D` after the last norm; ids and positions are int64."""
        ...

    def compute_logits(self, hidden_ND: Tensor) -> Tensor:
        """Float32 logits `N, V` of the rows given, scaled and capped as the model demands."""
        ...

    def linears(self) -> Iterator[Linear]:
        """Every linear, the head among them; `LinearSlice.name` is the name in the checkpoint."""
        ...

    def norms(self) -> Iterator[RMSNorm]:
        """Every norm that adapters can change."""
        ...
