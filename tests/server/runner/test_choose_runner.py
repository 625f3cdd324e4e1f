"""Which rung serves a model, and what is said where the one that was asked for cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorry_server import build_runner
from lorry_server.build_runner import RunnerChoice, choose_runner
from lorry_server.config import ServerConfig, read_config
from lorry_server.errors import StartupError
from lorry_server.model.causal_model import CausalModel
from lorry_server.model.load import load_model
from lorry_server.runner.compiled.rungs import AVX2, AVX512_VNNI, TORCH
from tests.support.tiny_engine import CPU
from tests.support.tiny_model import write_tiny_model

ALL = (AVX512_VNNI, AVX2, TORCH)
FALLBACK_REASON = "the model runs on transformers' own code"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CausalModel:
    folder = write_tiny_model(tmp_path_factory.mktemp("model"))
    return load_model(folder, dtype=torch.float32, device=CPU, quantization="int8")


@pytest.fixture(scope="module")
def fallback_model(tmp_path_factory: pytest.TempPathFactory) -> CausalModel:
    """Of an architecture that our decoder does not know."""
    from transformers import Olmo2Config, Olmo2ForCausalLM

    config = Olmo2Config(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=0,
    )
    folder = tmp_path_factory.mktemp("olmo2")
    Olmo2ForCausalLM(config).save_pretrained(folder)
    return load_model(folder, dtype=torch.float32, device=CPU, quantization="int8")


@pytest.fixture
def all_rungs(monkeypatch: pytest.MonkeyPatch) -> None:
    have(monkeypatch, *ALL)


def have(monkeypatch: pytest.MonkeyPatch, *rungs: str) -> None:
    """As on a machine that has these rungs."""
    monkeypatch.setattr(build_runner, "available_rungs", lambda: rungs)


def choose(
    model: CausalModel,
    asked: str,
    *,
    config: ServerConfig | None = None,
    device: torch.device = CPU,
    kv_dtype: torch.dtype = torch.int8,
) -> RunnerChoice:
    config = config or read_config([])
    return choose_runner(
        replace(config, cpu_kernels=asked), model, device=device, kv_dtype=kv_dtype
    )


@pytest.mark.usefixtures("all_rungs")
@pytest.mark.parametrize("asked", ALL)
def test_the_rung_that_was_asked_for_serves(model: CausalModel, asked: str) -> None:
    assert choose(model, asked) == RunnerChoice(asked, None)


@pytest.mark.parametrize("rungs", [ALL, (AVX2, TORCH)])
def test_auto_takes_the_fastest_rung(
    model: CausalModel, rungs: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, *rungs)

    assert choose(model, "auto") == RunnerChoice(rungs[0], None)


def test_auto_says_why_it_takes_torch_on_other_machines(
    model: CausalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, TORCH)

    choice = choose(model, "auto")

    assert choice.rung == TORCH
    assert choice.reason == "there are kernels for Linux on x86-64 with AVX2 only"


def test_a_rung_that_the_machine_lacks_is_refused_by_name(
    model: CausalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, AVX2, TORCH)

    with pytest.raises(
        StartupError, match="--cpu-kernels avx512-vnni: this machine has avx2, torch"
    ):
        choose(model, AVX512_VNNI)


@pytest.mark.usefixtures("all_rungs")
def test_a_model_on_transformers_own_code_takes_torch(fallback_model: CausalModel) -> None:
    assert choose(fallback_model, "auto") == RunnerChoice(TORCH, FALLBACK_REASON)
    assert choose(fallback_model, TORCH) == RunnerChoice(TORCH, None)


@pytest.mark.usefixtures("all_rungs")
def test_kernels_for_a_model_on_transformers_own_code_are_refused(
    fallback_model: CausalModel,
) -> None:
    with pytest.raises(StartupError, match=f"avx2: {FALLBACK_REASON}; use auto or torch"):
        choose(fallback_model, AVX2)


@pytest.mark.usefixtures("all_rungs")
def test_blocks_that_are_no_whole_runs_take_torch(model: CausalModel) -> None:
    config = replace(read_config([]), block_size=8)
    reason = "--block-size 8 is not a multiple of 16"

    assert choose(model, "auto", config=config) == RunnerChoice(TORCH, reason)
    with pytest.raises(StartupError, match=f"--cpu-kernels avx512-vnni: {reason}"):
        choose(model, AVX512_VNNI, config=config)


@pytest.mark.usefixtures("all_rungs")
def test_a_gpu_has_no_rungs(model: CausalModel) -> None:
    choice = choose(model, "auto", device=torch.device("cuda"), kv_dtype=torch.bfloat16)

    assert choice == RunnerChoice(TORCH, None)


@pytest.mark.usefixtures("all_rungs")
def test_an_activation_without_a_kernel_takes_torch(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path, hidden_act="gelu")
    model = load_model(folder, dtype=torch.float32, device=CPU, quantization="int8")

    assert choose(model, "auto") == RunnerChoice(TORCH, "its activation is gelu")
