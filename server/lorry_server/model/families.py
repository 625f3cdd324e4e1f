"""The families of decoders that we know: what their config.json does not say.

`defaults` are for keys that a config.json may leave out, because transformers' class of the family
has that default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from lorry_server.model.hf_config import HFConfig

WindowRule = Callable[[HFConfig, int, bool], bool]  # config, layer index, whether it is rotated


def _never(config: HFConfig, index: int, has_rope: bool) -> bool:
    return False


def _always(config: HFConfig, index: int, has_rope: bool) -> bool:
    return True


def _after_the_first(config: HFConfig, index: int, has_rope: bool) -> bool:
    return index >= config.integer("max_window_layers")


def _all_but_every_nth(config: HFConfig, index: int, has_rope: bool) -> bool:
    return (index + 1) % config.integer("sliding_window_pattern") != 0


def _where_not_rotated(config: HFConfig, index: int, has_rope: bool) -> bool:
    return not has_rope


@dataclass(frozen=True, slots=True)
class Family:
    """Differences from Llama; `is_windowed` decides where a config.json lists no `layer_types`."""

    defaults: Mapping[str, Any] = field(default_factory=dict)
    is_windowed: WindowRule = _never
    has_qkv_bias: bool = False
    has_qk_norm: bool = False
    has_sandwich_norms: bool = False
    scales_embeddings: bool = False
    norm_offset: float = 0.0
    is_checkpoint_fused: bool = False
    allows_partial_rotary: bool = False

    def has_windows(self, config: HFConfig) -> bool:
        return (
            self.is_windowed is not _never
            and "sliding_window" in config
            and config.boolean("use_sliding_window")
        )


def _defaults(**values: Any) -> Mapping[str, Any]:
    common = {
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "use_sliding_window": True,
    }
    return MappingProxyType(common | values)


_GEMMA_DEFAULTS = {
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}
_QWEN_DEFAULTS = {
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "sliding_window": 4096,
    "use_sliding_window": False,
}

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        # also SmolLM2, TinyLlama and Yi
        "LlamaForCausalLM": Family(_defaults(max_position_embeddings=2048)),
        "MistralForCausalLM": Family(
            _defaults(max_position_embeddings=131072, num_key_value_heads=8, sliding_window=4096),
            is_windowed=_always,
        ),
        # and 2.5
        "Qwen2ForCausalLM": Family(
            _defaults(**_QWEN_DEFAULTS), is_windowed=_after_the_first, has_qkv_bias=True
        ),
        "Qwen3ForCausalLM": Family(
            _defaults(**_QWEN_DEFAULTS, head_dim=128),
            is_windowed=_after_the_first,
            has_qk_norm=True,
        ),
        "Gemma2ForCausalLM": Family(
            _defaults(
                **_GEMMA_DEFAULTS,
                max_position_embeddings=8192,
                sliding_window_pattern=2,
                attn_logit_softcapping=50.0,
                final_logit_softcapping=30.0,
            ),
            is_windowed=_all_but_every_nth,
            has_sandwich_norms=True,
            scales_embeddings=True,
            norm_offset=1.0,
        ),
        "Gemma3ForCausalLM": Family(
            _defaults(
                **_GEMMA_DEFAULTS,
                max_position_embeddings=131072,
                sliding_window_pattern=6,
                rope_theta=1_000_000.0,
                rope_local_base_freq=10_000.0,
            ),
            is_windowed=_all_but_every_nth,
            has_qk_norm=True,
            has_sandwich_norms=True,
            scales_embeddings=True,
            norm_offset=1.0,
        ),
        "Phi3ForCausalLM": Family(
            _defaults(
                rms_norm_eps=1e-5,
                max_position_embeddings=4096,
                original_max_position_embeddings=4096,
            ),
            is_windowed=_always,
            is_checkpoint_fused=True,
            allows_partial_rotary=True,
        ),
        "GraniteForCausalLM": Family(
            _defaults(max_position_embeddings=2048, attention_multiplier=1.0)
        ),
        "SmolLM3ForCausalLM": Family(
            _defaults(
                max_position_embeddings=32768,
                num_key_value_heads=4,
                no_rope_layer_interval=4,
                rope_theta=2_000_000.0,
                tie_word_embeddings=True,
                use_sliding_window=False,
            ),
            is_windowed=_where_not_rotated,
        ),
    }
)
