"""`Arch`: a decoder's shape and every difference between the families, as data.

Read from a Hugging Face config.json without importing transformers, which takes seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lorry_server.errors import ModelError
from lorry_server.layers.activation import ACTIVATIONS
from lorry_server.layers.rotary import Rope
from lorry_server.model.families import FAMILIES, Family
from lorry_server.model.hf_config import HFConfig
from lorry_server.model.rope_config import (
    LayerType,
    original_max_position,
    read_rope,
    uses_longrope,
)


@dataclass(frozen=True, slots=True)
class LayerArch:
    """What differs between the layers of one model."""

    window: int | None  # tokens that attention sees, the token itself among them
    rope: Rope | None  # None: no position embedding in this layer


@dataclass(frozen=True, slots=True)
class Arch:
    """Everything that `Decoder` needs to know of a model."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position: int
    layers: tuple[LayerArch, ...]
    activation: str
    norm_eps: float
    norm_offset: float
    tied_embeddings: bool
    has_qkv_bias: bool
    has_output_bias: bool
    has_feed_forward_bias: bool
    has_qk_norm: bool
    has_sandwich_norms: bool
    is_checkpoint_fused: bool
    attention_scale: float
    attention_softcap: float | None
    embedding_scale: float
    residual_scale: float
    logits_divisor: float
    logits_softcap: float | None


def is_supported(config: Mapping[str, Any]) -> bool:
    """Whether `Decoder` knows the architecture that a config.json names."""
    return architecture_of(config) in FAMILIES


def architecture_of(config: Mapping[str, Any]) -> str:
    """The name of the model's class; raises `ModelError` where it names none, or several."""
    names = config.get("architectures")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise ModelError(f"config.json: architectures must name one architecture, not {names!r}")
    return names[0]


def read_arch(config: Mapping[str, Any], *, max_position: int | None = None) -> Arch:
    """The architecture that a config.json describes.

    `max_position` is the length of the longest sequence to be served. It matters for LongRoPE, which
    rotates otherwise above the original context length: the choice is made here, once, since keys
    in the cache cannot be rotated again. Without it such a model serves its original length.

    Raises `ModelError` that names any setting which is malformed, or would change the results and
    is not supported.
    """
    architecture = architecture_of(config)
    if architecture not in FAMILIES:
        raise ModelError(f"architecture {architecture} is not one of {', '.join(FAMILIES)}")
    family = FAMILIES[architecture]
    reader = HFConfig(config, defaults=family.defaults)
    _refuse_unsupported(reader)
    num_heads = reader.integer("num_attention_heads")
    num_kv_heads = reader.integer("num_key_value_heads", default=num_heads)
    hidden_size = reader.integer("hidden_size")
    head_dim = reader.integer("head_dim", default=hidden_size // num_heads)
    if num_heads % num_kv_heads:
        raise ModelError(
            f"config.json: num_attention_heads {num_heads} is not a multiple of "
            f"num_key_value_heads {num_kv_heads}"
        )
    positions = _positions(reader, max_position)
    return Arch(
        architecture=architecture,
        vocab_size=reader.integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=reader.integer("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_position=positions,
        layers=_layers(reader, family, head_dim=head_dim, max_position=positions),
        activation=_activation(reader),
        norm_eps=reader.number("rms_norm_eps"),
        norm_offset=family.norm_offset,
        tied_embeddings=reader.boolean("tie_word_embeddings"),
        has_qkv_bias=family.has_qkv_bias or reader.boolean("attention_bias"),
        has_output_bias=reader.boolean("attention_bias"),
        has_feed_forward_bias=reader.boolean("mlp_bias"),
        has_qk_norm=family.has_qk_norm,
        has_sandwich_norms=family.has_sandwich_norms,
        is_checkpoint_fused=family.is_checkpoint_fused,
        attention_scale=_attention_scale(reader, head_dim),
        attention_softcap=_optional_number(reader, "attn_logit_softcapping"),
        embedding_scale=hidden_size**0.5
        if family.scales_embeddings
        else reader.number("embedding_multiplier", default=1.0),
        residual_scale=reader.number("residual_multiplier", default=1.0),
        logits_divisor=reader.number("logits_scaling", default=1.0),
        logits_softcap=_optional_number(reader, "final_logit_softcapping"),
    )


def _refuse_unsupported(reader: HFConfig) -> None:
    if "quantization_config" in reader:
        given = reader.get("quantization_config")
        method = given.get("quant_method") if isinstance(given, dict) else given
        raise ModelError(f"config.json: quantization_config ({method}) is not supported")
    for key in ("use_bidirectional_attention", "is_encoder_decoder", "add_cross_attention"):
        if reader.get(key):
            raise ModelError(f"config.json: {key} is not supported: only causal decoders are")


def _positions(reader: HFConfig, max_position: int | None) -> int:
    longest = reader.integer("max_position_embeddings")
    if max_position is None:
        return min(longest, original_max_position(reader)) if uses_longrope(reader) else longest
    if not 1 <= max_position <= longest:
        raise ModelError(f"max_position must be from 1 to {longest}, not {max_position}")
    return max_position


def _activation(reader: HFConfig) -> str:
    name = reader.get("hidden_activation") or reader.get("hidden_act")
    if name not in ACTIVATIONS:
        raise ModelError(
            f"config.json: activation {name!r} is not supported; supported are "
            f"{', '.join(ACTIVATIONS)}"
        )
    return str(name)


def _attention_scale(reader: HFConfig, head_dim: int) -> float:
    if "attention_multiplier" in reader:
        return reader.number("attention_multiplier")
    return float(reader.number("query_pre_attn_scalar", default=head_dim) ** -0.5)


def _optional_number(reader: HFConfig, key: str) -> float | None:
    return reader.number(key) if key in reader else None


def _layers(
    reader: HFConfig, family: Family, *, head_dim: int, max_position: int
) -> tuple[LayerArch, ...]:
    num_layers = reader.integer("num_hidden_layers")
    rope_flags = _rope_flags(reader, num_layers)
    layer_types = _layer_types(reader, family, rope_flags)
    is_long = uses_longrope(reader) and max_position > original_max_position(reader)
    ropes = {
        layer_type: read_rope(
            reader,
            layer_type,
            head_dim=head_dim,
            allow_partial=family.allows_partial_rotary,
            is_long=is_long,
        )
        for layer_type in set(layer_types)
    }
    return tuple(
        LayerArch(
            window=reader.integer("sliding_window") if kind == "sliding_attention" else None,
            rope=ropes[kind] if has_rope else None,
        )
        for kind, has_rope in zip(layer_types, rope_flags, strict=True)
    )


def _rope_flags(reader: HFConfig, num_layers: int) -> list[bool]:
    """Whether each layer is rotated. The checkpoint's `no_rope_layers` has 1 where it is."""
    listed = reader.per_layer("no_rope_layers", num_layers=num_layers)
    if listed is not None:
        return [bool(flag) for flag in listed]
    if "no_rope_layer_interval" not in reader:
        return [True] * num_layers
    interval = reader.integer("no_rope_layer_interval")
    return [(index + 1) % interval != 0 for index in range(num_layers)]


def _layer_types(reader: HFConfig, family: Family, rope_flags: list[bool]) -> list[LayerType]:
    num_layers = len(rope_flags)
    if not family.has_windows(reader):
        return ["full_attention"] * num_layers
    listed = reader.per_layer("layer_types", num_layers=num_layers)
    if listed is None:
        return [
            "sliding_attention"
            if family.is_windowed(reader, index, rope_flags[index])
            else "full_attention"
            for index in range(num_layers)
        ]
    for kind in listed:
        if kind not in ("full_attention", "sliding_attention"):
            raise ModelError(f"config.json: layer_types {kind!r} is not supported")
    return listed
