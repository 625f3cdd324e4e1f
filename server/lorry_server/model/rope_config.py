"""From the rotary settings of a config.json, in any of their spellings, to `Rope`.

Newer checkpoints have `rope_parameters`, flat or one for each kind of layer; older ones have
`rope_theta` with `rope_scaling`, and Gemma 3 `rope_local_base_freq` for its windowed layers.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from lorry_server.errors import ModelError
from lorry_server.layers.rotary import (
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rope,
    Scaling,
    YarnScaling,
)
from lorry_server.model.hf_config import HFConfig

LayerType = Literal["full_attention", "sliding_attention"]


def read_rope(
    config: HFConfig, layer_type: LayerType, *, head_dim: int, allow_partial: bool, is_long: bool
) -> Rope:
    """The rotation of layers of `layer_type`.

    `is_long` chooses LongRoPE's factors for contexts above the original length. Raises `ModelError`
    for a kind of scaling that is unknown, or that depends on the length of the sequence.
    """
    reader = HFConfig(_parameters(config, layer_type), defaults={"rope_type": "default"})
    partial = reader.number("partial_rotary_factor", default=1.0)
    if partial != 1.0 and not allow_partial:
        raise ModelError(
            f"config.json: partial_rotary_factor {partial:g} is not supported for this family"
        )
    size = int(head_dim * partial)
    if size % 2 or not 0 < size <= head_dim:
        raise ModelError(f"config.json: cannot rotate {size} of {head_dim} features of a head")
    scaling = _scaling(reader, config, size=size, is_long=is_long)
    return Rope(theta=reader.number("rope_theta"), size=size, scaling=scaling)


def _parameters(config: HFConfig, layer_type: LayerType) -> dict[str, Any]:
    given = config.get("rope_parameters") or {}
    is_nested = isinstance(given.get("full_attention"), dict)
    own = dict((given.get(layer_type) or {}) if is_nested else given)
    is_local = layer_type == "sliding_attention" and "rope_local_base_freq" in config
    if config.get("rope_scaling") and not is_local:
        own |= config.get("rope_scaling")
    theta = config.get("rope_local_base_freq" if is_local else "rope_theta")
    own.setdefault("rope_theta", theta)
    if "partial_rotary_factor" in config:
        own.setdefault("partial_rotary_factor", config.get("partial_rotary_factor"))
    own.setdefault("rope_type", own.get("type", "default"))
    if own.get("mrope_section"):
        raise ModelError("config.json: mrope_section (multimodal rotary embedding) is unsupported")
    return own


def _scaling(reader: HFConfig, config: HFConfig, *, size: int, is_long: bool) -> Scaling | None:
    match reader.get("rope_type"):
        case "default":
            return None
        case "linear":
            return LinearScaling(factor=reader.number("factor"))
        case "llama3":
            return Llama3Scaling(
                factor=reader.number("factor"),
                low_freq_factor=reader.number("low_freq_factor"),
                high_freq_factor=reader.number("high_freq_factor"),
                original_max_position=original_max_position(config, reader),
            )
        case "yarn" if config.get("model_type") != "phi3":
            return _yarn(reader, config)
        case "longrope" | "su" | "yarn":  # early Phi-3 checkpoints call LongRoPE so
            return _longrope(reader, config, size=size, is_long=is_long)
        case unknown:
            raise ModelError(
                f"config.json: rope_type {unknown!r} is not supported; "
                "supported are default, linear, llama3, yarn and longrope"
            )


def original_max_position(config: HFConfig, parameters: HFConfig | None = None) -> int:
    """Positions that the model was trained with before its context was stretched."""
    key = "original_max_position_embeddings"
    if key in config:
        return config.integer(key)
    if parameters is not None and key in parameters:
        return parameters.integer(key)
    return config.integer("max_position_embeddings")


def uses_longrope(config: HFConfig) -> bool:
    """Whether the rotation changes above the original context length."""
    kind = _parameters(config, "full_attention")["rope_type"]
    return kind in ("longrope", "su") or (kind == "yarn" and config.get("model_type") == "phi3")


def _yarn(reader: HFConfig, config: HFConfig) -> YarnScaling:
    original = original_max_position(config, reader)
    factor = reader.number("factor", default=config.integer("max_position_embeddings") / original)
    if "attention_factor" in reader:
        attention_factor = reader.number("attention_factor")
    elif reader.get("mscale") and reader.get("mscale_all_dim"):
        attention_factor = _magnitude(factor, reader.number("mscale")) / _magnitude(
            factor, reader.number("mscale_all_dim")
        )
    else:
        attention_factor = _magnitude(factor, 1.0)
    return YarnScaling(
        factor=factor,
        attention_factor=attention_factor,
        beta_fast=reader.number("beta_fast", default=32.0),
        beta_slow=reader.number("beta_slow", default=1.0),
        original_max_position=original,
        truncate=reader.get("truncate") is not False,
    )


def _magnitude(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def _longrope(reader: HFConfig, config: HFConfig, *, size: int, is_long: bool) -> LongRopeScaling:
    key = "long_factor" if is_long else "short_factor"
    factors = reader.get(key)
    if not isinstance(factors, list) or len(factors) != size // 2:
        raise ModelError(f"config.json: {key} must list {size // 2} numbers")
    original = original_max_position(config, reader)
    factor = reader.number("factor", default=config.integer("max_position_embeddings") / original)
    computed = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return LongRopeScaling(
        factors=tuple(float(number) for number in factors),
        attention_factor=reader.number("attention_factor", default=computed),
    )
