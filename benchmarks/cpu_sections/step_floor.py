"""The least time that a step can take: its bytes over the memory's rate, its sums over the peak."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SCALE_BYTES = 4


@dataclass(frozen=True, slots=True)
class StepFloor:
    """Counts for int8 weights and an int8 cache with one scale per token and head.

    `config` is the model's config.json. Only what grows with weights, rows and context is counted;
    norms, activations and scales of weights are free here, so the floor cannot be reached.
    """

    config: Mapping[str, Any]
    bandwidth_gb_s: float
    peak_gop_s: float

    def bytes_ms(self, num_rows: int, context: int, *, num_sequences: int) -> float:
        """Every weight once, and every sequence's keys and values once."""
        config = self.config
        head_bytes = _head_dim(config) + SCALE_BYTES
        token_bytes = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_bytes
        num_bytes = self._layer_weights() + self._head_weights()
        num_bytes += num_sequences * context * token_bytes
        return num_bytes / self.bandwidth_gb_s / 1e6

    def operations_ms(self, num_rows: int, context: int, *, num_sequences: int) -> float:
        """Multiplications and additions of the linear layers and of attention, at int8's peak.

        The head computes one row of every sequence. Attention of a prefill counts half of its
        square.
        """
        config = self.config
        num_queries = num_rows // num_sequences
        mean_context = context - (num_queries - 1) / 2
        attention = 4 * config["num_attention_heads"] * _head_dim(config) * mean_context
        operations = 2 * num_rows * self._layer_weights()
        operations += 2 * num_sequences * self._head_weights()
        operations += num_rows * config["num_hidden_layers"] * attention
        return operations / self.peak_gop_s / 1e6

    def _layer_weights(self) -> int:
        config = self.config
        hidden, head_dim = config["hidden_size"], _head_dim(config)
        query = config["num_attention_heads"] * head_dim
        key = config["num_key_value_heads"] * head_dim
        mlp = 3 * hidden * config["intermediate_size"]
        weights: int = config["num_hidden_layers"] * (2 * hidden * (query + key) + mlp)
        return weights

    def _head_weights(self) -> int:
        weights: int = self.config["vocab_size"] * self.config["hidden_size"]
        return weights


def _head_dim(config: Mapping[str, Any]) -> int:
    head_dim: int = config.get("head_dim") or (
        config["hidden_size"] // config["num_attention_heads"]
    )
    return head_dim
