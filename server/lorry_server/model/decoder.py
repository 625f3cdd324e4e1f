"""`Decoder`: the one transformer of all families that `Arch` describes.

Shape legend: T tokens of the step, D hidden size, N query heads (in logits: rows), K key and value
heads, H head size, F size of the feed-forward layer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lorry_server.kernels.exp import soft_cap
from lorry_server.layers.activation import ACTIVATIONS, gate
from lorry_server.layers.attention import AttentionBackend
from lorry_server.layers.embedding import EmbeddingPlace
from lorry_server.layers.linear import Linear
from lorry_server.layers.norm import RMSNorm
from lorry_server.layers.rotary import Rope, RotaryEmbedding, rotate
from lorry_server.model.arch import Arch
from lorry_server.model.base_weights import CheckpointWeights
from lorry_server.quantization.scheme import Scheme


class Decoder(nn.Module):
    """Embedding, layers, norm, head. Made empty; `model.weights` fills it.

    `base_weights` is where it was filled from, for adapters that ask; None: from nowhere yet.
    """

    embedding_VD: Tensor | None  # None when it is tied to the head: one copy is kept

    def __init__(
        self, arch: Arch, *, scheme: Scheme, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.arch = arch
        self.dtype = dtype
        make = _Maker(arch, scheme=scheme, dtype=dtype, device=device)
        shape = (arch.vocab_size, arch.hidden_size)
        self.register_buffer(
            "embedding_VD",
            None if arch.tied_embeddings else torch.empty(shape, dtype=dtype, device=device),
        )
        self.embedding = EmbeddingPlace(
            "model.embed_tokens",
            num_tokens=arch.vocab_size,
            size=arch.hidden_size,
            is_tied=arch.tied_embeddings,
        )
        self.base_weights: CheckpointWeights | None = None
        self.ropes = tuple(dict.fromkeys(layer.rope for layer in arch.layers if layer.rope))
        self.rotaries = nn.ModuleList(RotaryEmbedding(rope, device=device) for rope in self.ropes)
        self.layers = nn.ModuleList(Layer(index, make) for index in range(len(arch.layers)))
        self.norm = make.norm("model.norm")
        self.head = make.linear(
            "lm_head",
            in_features=arch.hidden_size,
            parts=[("lm_head", arch.vocab_size)],
            is_head=True,
        )

    @property
    def num_layers(self) -> int:
        return len(self.arch.layers)

    @property
    def num_heads(self) -> int:
        return self.arch.num_heads

    @property
    def num_kv_heads(self) -> int:
        return self.arch.num_kv_heads

    @property
    def head_dim(self) -> int:
        return self.arch.head_dim

    @property
    def vocab_size(self) -> int:
        return self.arch.vocab_size

    @property
    def max_position(self) -> int:
        return self.arch.max_position

    def forward(
        self, token_ids_T: Tensor, positions_T: Tensor, attention: AttentionBackend
    ) -> Tensor:
        rotations: Rotations = {
            rope: rotary(positions_T, self.dtype)
            for rope, rotary in zip(self.ropes, self.rotaries, strict=True)
        }
        x_TD = self._embed(token_ids_T)
        for layer in self.layers:
            x_TD = layer(x_TD, rotations, attention)
        hidden_TD: Tensor = self.norm(x_TD)
        return hidden_TD

    def compute_logits(self, hidden_ND: Tensor) -> Tensor:
        logits_NV: Tensor = self.head(hidden_ND).float()
        if self.arch.logits_divisor != 1.0:
            logits_NV = logits_NV / self.arch.logits_divisor
        if self.arch.logits_softcap is not None:
            logits_NV = soft_cap(logits_NV, self.arch.logits_softcap)
        return logits_NV

    def linears(self) -> Iterator[Linear]:
        return (module for module in self.modules() if isinstance(module, Linear))

    def norms(self) -> Iterator[RMSNorm]:
        return (module for module in self.modules() if isinstance(module, RMSNorm))

    def _embed(self, token_ids_T: Tensor) -> Tensor:
        if self.embedding_VD is None:
            x_TD = self.head.weight.rows(token_ids_T)
        else:
            x_TD = F.embedding(token_ids_T, self.embedding_VD)
        self.embedding.adapt_(x_TD, token_ids_T)
        if self.arch.embedding_scale == 1.0:
            return x_TD
        # rounded to the model's dtype first, as in training
        return x_TD * torch.tensor(self.arch.embedding_scale, dtype=self.dtype)


Rotations = dict[Rope, tuple[Tensor, Tensor]]


class Layer(nn.Module):
    """Attention and feed-forward, each added to the residual stream."""

    def __init__(self, index: int, make: _Maker) -> None:
        super().__init__()
        arch = make.arch
        name = f"model.layers.{index}"
        self.residual_scale = arch.residual_scale
        self.attention = Attention(index, make)
        self.feed_forward = FeedForward(index, make)
        self.attention_norm = make.norm(f"{name}.input_layernorm")
        self.attention_output_norm: RMSNorm | None = None
        self.feed_forward_output_norm: RMSNorm | None = None
        if arch.has_sandwich_norms:
            self.attention_output_norm = make.norm(f"{name}.post_attention_layernorm")
            self.feed_forward_norm = make.norm(f"{name}.pre_feedforward_layernorm")
            self.feed_forward_output_norm = make.norm(f"{name}.post_feedforward_layernorm")
        else:
            self.feed_forward_norm = make.norm(f"{name}.post_attention_layernorm")

    def forward(self, x_TD: Tensor, rotations: Rotations, attention: AttentionBackend) -> Tensor:
        y_TD = self.attention(self.attention_norm(x_TD), rotations, attention)
        x_TD = self._add(x_TD, y_TD, self.attention_output_norm)
        y_TD = self.feed_forward(self.feed_forward_norm(x_TD))
        return self._add(x_TD, y_TD, self.feed_forward_output_norm)

    def _add(self, x_TD: Tensor, y_TD: Tensor, output_norm: RMSNorm | None) -> Tensor:
        if output_norm is not None:
            y_TD = output_norm(y_TD)
        if self.residual_scale != 1.0:
            y_TD = y_TD * self.residual_scale
        return x_TD + y_TD


class Attention(nn.Module):
    """Queries, keys and values in one product; the cache and the scores are the backend's."""

    def __init__(self, index: int, make: _Maker) -> None:
        super().__init__()
        arch = make.arch
        self.arch = arch
        self.index = index
        self.window = arch.layers[index].window
        self.rope = arch.layers[index].rope
        name = f"model.layers.{index}.self_attn"
        q_size, kv_size = arch.num_heads * arch.head_dim, arch.num_kv_heads * arch.head_dim
        self.sizes = [q_size, kv_size, kv_size]
        self.qkv = make.linear(
            f"{name}.qkv_proj",
            in_features=arch.hidden_size,
            parts=[(f"{name}.qkv_proj", q_size + 2 * kv_size)]
            if arch.is_checkpoint_fused
            else [
                (f"{name}.q_proj", q_size),
                (f"{name}.k_proj", kv_size),
                (f"{name}.v_proj", kv_size),
            ],
            bias=arch.has_qkv_bias,
        )
        self.output = make.linear(
            f"{name}.o_proj",
            in_features=q_size,
            parts=[(f"{name}.o_proj", arch.hidden_size)],
            bias=arch.has_output_bias,
        )
        self.q_norm: RMSNorm | None = None
        self.k_norm: RMSNorm | None = None
        if arch.has_qk_norm:
            self.q_norm = make.norm(f"{name}.q_norm", size=arch.head_dim)
            self.k_norm = make.norm(f"{name}.k_norm", size=arch.head_dim)

    def forward(self, x_TD: Tensor, rotations: Rotations, attention: AttentionBackend) -> Tensor:
        q_TNH, k_TKH, v_TKH = (
            part.unflatten(-1, (-1, self.arch.head_dim))
            for part in self.qkv(x_TD).split(self.sizes, dim=-1)
        )
        if self.q_norm is not None and self.k_norm is not None:
            q_TNH, k_TKH = self.q_norm(q_TNH), self.k_norm(k_TKH)
        if self.rope is not None:
            cos, sin = rotations[self.rope]
            q_TNH, k_TKH = rotate(q_TNH, cos, sin), rotate(k_TKH, cos, sin)
        out_TNH = attention.attend(
            self.index,
            q_TNH,
            k_TKH,
            v_TKH,
            scale=self.arch.attention_scale,
            window=self.window,
            softcap=self.arch.attention_softcap,
        )
        y_TD: Tensor = self.output(out_TNH.flatten(1))
        return y_TD


class FeedForward(nn.Module):
    """The gated feed-forward layer, gate and up in one product."""

    def __init__(self, index: int, make: _Maker) -> None:
        super().__init__()
        arch = make.arch
        name = f"model.layers.{index}.mlp"
        size = arch.intermediate_size
        self.activation = ACTIVATIONS[arch.activation]
        self.gate_up = make.linear(
            f"{name}.gate_up_proj",
            in_features=arch.hidden_size,
            parts=[(f"{name}.gate_up_proj", 2 * size)]
            if arch.is_checkpoint_fused
            else [(f"{name}.gate_proj", size), (f"{name}.up_proj", size)],
            bias=arch.has_feed_forward_bias,
        )
        self.down = make.linear(
            f"{name}.down_proj",
            in_features=size,
            parts=[(f"{name}.down_proj", arch.hidden_size)],
            bias=arch.has_feed_forward_bias,
        )

    def forward(self, x_TD: Tensor) -> Tensor:
        y_TD: Tensor = self.down(gate(self.gate_up(x_TD), self.activation))
        return y_TD


class _Maker:
    """Makes the linears and norms of one model, which all share scheme, dtype and device."""

    def __init__(
        self, arch: Arch, *, scheme: Scheme, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.arch = arch
        self._scheme = scheme
        self._dtype = dtype
        self._device = device

    def linear(
        self,
        name: str,
        *,
        in_features: int,
        parts: list[tuple[str, int]],
        bias: bool = False,
        is_head: bool = False,
    ) -> Linear:
        return Linear(
            name,
            in_features=in_features,
            parts=parts,
            bias=bias,
            is_head=is_head,
            scheme=self._scheme,
            dtype=self._dtype,
            device=self._device,
        )

    def norm(self, name: str, *, size: int | None = None) -> RMSNorm:
        return RMSNorm(
            name,
            size=size or self.arch.hidden_size,
            eps=self.arch.norm_eps,
            offset=self.arch.norm_offset,
            device=self._device,
        )
