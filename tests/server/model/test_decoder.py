from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lorry_server.model.load import load_model
from tests.support.logits import CPU, TOLERANCE, our_logits, token_ids, transformers_logits
from tests.support.simple_attention import SimpleAttention
from tests.support.tiny_model import FAMILIES, write_tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_those_of_transformers(tmp_path: Path, family: str) -> None:
    folder = write_tiny_model(tmp_path, family)

    expected_TV = transformers_logits(folder, token_ids())

    torch.testing.assert_close(our_logits(folder, token_ids()), expected_TV, atol=TOLERANCE, rtol=0)


ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "yarn with mscale": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "mscale": 0.7,
        "mscale_all_dim": 1.0,
        "beta_fast": 16,
        "truncate": False,
    },
}


@pytest.mark.parametrize("kind", ROPES)
def test_scaled_rotations_equal_those_of_transformers(tmp_path: Path, kind: str) -> None:
    folder = write_tiny_model(tmp_path, rope_parameters={"rope_theta": 1e4} | ROPES[kind])

    expected_TV = transformers_logits(folder, token_ids())

    torch.testing.assert_close(our_logits(folder, token_ids()), expected_TV, atol=TOLERANCE, rtol=0)


def test_settings_of_old_checkpoints_are_read(tmp_path: Path) -> None:
    folder = write_tiny_model(
        tmp_path, rope_parameters=None, rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2}
    )

    expected_TV = transformers_logits(folder, token_ids())

    torch.testing.assert_close(our_logits(folder, token_ids()), expected_TV, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_give_the_logits_of_the_whole_sequence(tmp_path: Path, family: str) -> None:
    folder = write_tiny_model(tmp_path, family)

    chunked_TV = our_logits(folder, token_ids(), chunk_sizes=[10, 1, 1, 12])

    torch.testing.assert_close(chunked_TV, our_logits(folder, token_ids()), atol=TOLERANCE, rtol=0)


def test_tied_head_gives_the_same_logits_as_a_copy_of_the_embedding(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, tie_word_embeddings=True)

    expected_TV = transformers_logits(folder, token_ids())

    torch.testing.assert_close(our_logits(folder, token_ids()), expected_TV, atol=TOLERANCE, rtol=0)


def test_long_context_of_longrope_uses_the_long_factors(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, "phi3", original_max_position_embeddings=16)
    model = load_model(
        folder, dtype=torch.float32, device=CPU, quantization="none", max_position=2048
    )
    ids_T = token_ids()

    with torch.inference_mode():
        hidden_TD = model.forward(ids_T, torch.arange(len(ids_T)), SimpleAttention())
        logits_TV = model.compute_logits(hidden_TD)

    expected_TV = transformers_logits(folder, ids_T)
    torch.testing.assert_close(logits_TV, expected_TV, atol=TOLERANCE, rtol=0)


def test_without_a_longer_context_longrope_serves_its_original_length(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, "phi3")

    model = load_model(folder, dtype=torch.float32, device=CPU, quantization="none")

    assert model.max_position == 512


def test_linears_carry_the_names_of_the_checkpoint(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, num_hidden_layers=1)
    model = load_model(folder, dtype=torch.float32, device=CPU, quantization="none")

    slices = {
        part.name: (part.start, part.stop) for linear in model.linears() for part in linear.slices
    }

    layer = "model.layers.0"
    assert slices == {
        f"{layer}.self_attn.q_proj": (0, 64),
        f"{layer}.self_attn.k_proj": (64, 96),
        f"{layer}.self_attn.v_proj": (96, 128),
        f"{layer}.self_attn.o_proj": (0, 64),
        f"{layer}.mlp.gate_proj": (0, 96),
        f"{layer}.mlp.up_proj": (96, 192),
        f"{layer}.mlp.down_proj": (0, 64),
        "lm_head": (0, 331),
    }


def test_attached_adapters_add_to_the_output_of_their_linear(tmp_path: Path) -> None:
    class AddsOne:
        def add_(self, y_TO: Tensor, x_TI: Tensor) -> None:
            y_TO += x_TI.shape[1]

    model = load_model(
        write_tiny_model(tmp_path), dtype=torch.float32, device=CPU, quantization="none"
    )
    head = next(linear for linear in model.linears() if linear.name == "lm_head")
    hidden_ND = torch.randn(3, 64)
    before_NV = model.compute_logits(hidden_ND)

    head.adapters = AddsOne()

    torch.testing.assert_close(model.compute_logits(hidden_ND), before_NV + 64)
