from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lorry_server.errors import ModelError
from lorry_server.model.load import load_model
from tests.support.logits import (
    CPU,
    TOLERANCE,
    our_logits,
    token_ids,
    transformers_logits,
)

SHAPE = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}


def write_model(folder: Path, architecture: str, **settings: object) -> Path:
    """A random model of any of transformers' architectures."""
    import transformers

    torch.manual_seed(0)
    model_class = getattr(transformers, architecture)
    model = model_class(model_class.config_class(**settings))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "architecture",
    ["Olmo2ForCausalLM", "CohereForCausalLM", "Starcoder2ForCausalLM", "MixtralForCausalLM"],
)
def test_fallback_logits_equal_those_of_transformers(tmp_path: Path, architecture: str) -> None:
    folder = write_model(tmp_path, architecture, **SHAPE)

    logits_TV = our_logits(folder, token_ids(), chunk_sizes=[16, 1, 7])

    expected_TV = transformers_logits(folder, token_ids())
    torch.testing.assert_close(logits_TV, expected_TV, atol=TOLERANCE, rtol=0)


def test_fallback_reads_linears_that_are_stored_transposed(tmp_path: Path) -> None:
    folder = write_model(
        tmp_path, "GPT2LMHeadModel", vocab_size=300, n_embd=64, n_layer=2, n_head=4
    )

    logits_TV = our_logits(folder, token_ids())

    expected_TV = transformers_logits(folder, token_ids())
    torch.testing.assert_close(logits_TV, expected_TV, atol=TOLERANCE, rtol=0)


def test_fallback_has_shape_linears_and_adapters_as_our_decoder_has(tmp_path: Path) -> None:
    class AddsOne:
        def add_(self, y_TO: Tensor, x_TI: Tensor) -> None:
            assert y_TO.shape[0] == x_TI.shape[0] == 3
            y_TO += 1

    folder = write_model(tmp_path, "Olmo2ForCausalLM", **SHAPE)
    model = load_model(folder, dtype=torch.float32, device=CPU, quantization="int8")
    linears = {linear.name: linear for linear in model.linears()}
    hidden_ND = torch.randn(3, 64)
    before_NV = model.compute_logits(hidden_ND)

    linears["lm_head"].adapters = AddsOne()

    assert "model.layers.1.self_attn.q_proj" in linears
    assert linears["model.layers.1.mlp.down_proj"].in_features == 96
    shape = (model.num_layers, model.num_heads, model.num_kv_heads, model.head_dim)
    assert shape == (2, 4, 2, 16)
    assert model.vocab_size == 300
    torch.testing.assert_close(model.compute_logits(hidden_ND), before_NV + 1)


def test_model_whose_attention_cannot_be_replaced_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_model(
        tmp_path, "MambaForCausalLM", vocab_size=300, hidden_size=64, num_hidden_layers=1
    )

    with pytest.raises(ModelError, match="MambaForCausalLM is not supported"):
        load_model(folder, dtype=torch.float32, device=CPU, quantization="none")


def test_encoder_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_model(
        tmp_path,
        "BertLMHeadModel",
        vocab_size=300,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
    )

    with pytest.raises(ModelError, match="BertLMHeadModel is not a causal decoder"):
        load_model(folder, dtype=torch.float32, device=CPU, quantization="none")


def test_attention_sinks_are_refused_when_the_model_is_loaded(tmp_path: Path) -> None:
    folder = write_model(
        tmp_path,
        "GptOssForCausalLM",
        **SHAPE,
        head_dim=16,
        num_local_experts=2,
        num_experts_per_tok=1,
    )

    with pytest.raises(ModelError, match="GptOssAttention needs s_aux, which is not supported"):
        load_model(folder, dtype=torch.float32, device=CPU, quantization="none")


def test_rotation_that_changes_with_the_length_is_refused(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    folder = write_model(tmp_path, "Olmo2ForCausalLM", **SHAPE, rope_parameters=rope)

    with pytest.raises(ModelError, match="Olmo2ForCausalLM with rope_type 'dynamic' is not"):
        load_model(folder, dtype=torch.float32, device=CPU, quantization="none")
