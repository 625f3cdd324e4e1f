from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lorry_server.errors import ModelError
from lorry_server.layers.rotary import LongRopeScaling
from lorry_server.model.arch import Arch, read_arch
from lorry_server.model.load import load_model

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}


def arch_of(**changes: Any) -> Arch:
    return read_arch(LLAMA | changes)


def windows(arch: Arch) -> list[int | None]:
    return [layer.window for layer in arch.layers]


def test_absent_keys_have_the_defaults_of_their_family() -> None:
    arch = arch_of()

    assert (arch.num_kv_heads, arch.head_dim, arch.max_position) == (4, 16, 2048)
    assert arch.tied_embeddings is False
    assert windows(arch) == [None] * 4


def test_null_switches_a_window_off_that_is_the_family_default() -> None:
    mistral = {"architectures": ["MistralForCausalLM"]}

    assert windows(arch_of(**mistral, num_key_value_heads=4)) == [4096] * 4
    assert windows(arch_of(**mistral, num_key_value_heads=4, sliding_window=None)) == [None] * 4


def test_qwen_has_windows_only_where_they_are_asked_for() -> None:
    qwen = {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 16, "max_window_layers": 2}

    assert windows(arch_of(**qwen)) == [None] * 4
    assert windows(arch_of(**qwen, use_sliding_window=True)) == [None, None, 16, 16]


def test_gemma_alternates_windows_where_no_layer_types_are_listed() -> None:
    arch = arch_of(architectures=["Gemma2ForCausalLM"])

    assert windows(arch) == [4096, None, 4096, None]
    assert arch.logits_softcap == 30.0
    assert arch.tied_embeddings is True


def test_gemma3_rotates_windowed_layers_by_their_own_base() -> None:
    arch = arch_of(
        architectures=["Gemma3ForCausalLM"],
        sliding_window_pattern=2,
        rope_theta=5e5,
        rope_local_base_freq=7e3,
        rope_scaling={"rope_type": "linear", "factor": 8.0},
    )

    ropes = [layer.rope for layer in arch.layers]
    assert [rope.theta for rope in ropes if rope] == [7e3, 5e5, 7e3, 5e5]
    assert [rope.scaling is None for rope in ropes if rope] == [True, False, True, False]


def test_smollm3_does_not_rotate_every_fourth_layer() -> None:
    arch = arch_of(architectures=["SmolLM3ForCausalLM"])

    assert [layer.rope is None for layer in arch.layers] == [False, False, False, True]


def test_longrope_takes_its_short_factors_within_the_original_context() -> None:
    phi = {
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "max_position_embeddings": 8192,
        "rope_scaling": {"type": "su", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8},
    }

    short, long = read_arch(LLAMA | phi), read_arch(LLAMA | phi, max_position=8192)

    scalings = [arch.layers[0].rope.scaling for arch in (short, long) if arch.layers[0].rope]
    factors = [scaling.factors for scaling in scalings if isinstance(scaling, LongRopeScaling)]
    assert (short.max_position, long.max_position) == (4096, 8192)
    assert factors == [(1.0,) * 8, (2.0,) * 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": None}, "architectures must name one architecture, not None"),
        ({"architectures": ["Foo"]}, "architecture Foo is not one of LlamaForCausalLM"),
        ({"hidden_size": "64"}, "hidden_size must be a positive integer, not '64'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer, not 0"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple"),
        ({"hidden_act": "relu2"}, "activation 'relu2' is not supported; supported are silu"),
        ({"rms_norm_eps": "x"}, "rms_norm_eps must be a number, not 'x'"),
        ({"attention_bias": 1}, "attention_bias must be true or false, not 1"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, "rope_type 'dynamic' is not"),
        ({"rope_scaling": {"rope_type": "linear"}}, "factor must be a number, not None"),
        ({"rope_scaling": {"mrope_section": [1, 2]}}, "mrope_section"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"quantization_config": {"quant_method": "awq"}}, r"quantization_config \(awq\)"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (
            {
                "architectures": ["Qwen2ForCausalLM"],
                "use_sliding_window": True,
                "layer_types": ["chunked_attention"] * 4,
            },
            "layer_types 'chunked_attention' is not supported",
        ),
        (
            {"architectures": ["SmolLM3ForCausalLM"], "no_rope_layers": [1]},
            "no_rope_layers must list one entry for each of the 4 layers",
        ),
    ],
)
def test_settings_that_cannot_be_served_are_refused_by_name(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        arch_of(**changes)


def test_longer_context_than_the_model_has_is_refused() -> None:
    with pytest.raises(ModelError, match="max_position must be from 1 to 2048, not 4096"):
        read_arch(LLAMA, max_position=4096)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a model folder: it has no config.json"),
        ("{", "is not valid JSON"),
        ("[]", "must hold a JSON object, not list"),
        (json.dumps(LLAMA | {"auto_map": {"AutoModel": "code.Model"}}), "auto_map"),
    ],
)
def test_folder_with_a_bad_config_is_refused(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)

    with pytest.raises(ModelError, match=message):
        load_model(tmp_path, dtype=torch.float32, device=torch.device("cpu"), quantization="none")
