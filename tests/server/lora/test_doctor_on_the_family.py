"""The doctor on every kind of adapter that PEFT's LoRA has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lorry_server.lora.adapter import read_adapter
from lorry_server.lora.adapter_files import WEIGHTS_FILE
from lorry_server.lora.doctor import examine
from lorry_server.lora.model_facts import ModelFacts, read_model_facts
from tests.support.tiny_adapters import family_of, write_adapter, write_unlike_adapters
from tests.support.tiny_model import write_tiny_model

FAMILIES = ("qwen2", "gemma3")  # with biases, and with a tied head


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / request.param, request.param)


@pytest.fixture(scope="module")
def model(base: Path) -> ModelFacts:
    return read_model_facts(base, model_id=base.name, dtype="float32")


def test_every_kind_is_found_sound_and_its_features_are_named(
    base: Path, model: ModelFacts, tmp_path: Path
) -> None:
    for name, folder in write_unlike_adapters(base, tmp_path, family_of(base.name)).items():
        adapter = read_adapter(folder)
        report = examine(adapter, model)

        problems = [finding.message for finding in report.findings]
        assert (name, report.verdict, problems) == (name, "ok", [])
        assert report.features == adapter.features
        assert report.num_modules == len(adapter.names)
        assert report.parity is None or report.parity.covers == "lora"
        assert (report.parity is not None) == any(
            module in model.layers for module in adapter.modules
        )


def test_replaced_tensors_and_trained_tokens_of_another_model_are_refused(
    tmp_path: Path, base: Path
) -> None:
    other = write_tiny_model(tmp_path / "other", base.name, hidden_size=128)
    facts = read_model_facts(other, model_id="other", dtype="float32")
    configs = family_of(base.name)
    names = ("embedding", "head-saved", "embedding-saved", "tokens")
    folders = write_unlike_adapters(base, tmp_path, {name: configs[name] for name in names})

    for folder in folders.values():
        report = examine(read_adapter(folder), facts)

        assert report.verdict == "refuse"
        assert report.num_wrong_shapes == report.num_modules


def test_an_adapter_without_lora_has_no_figures_of_it(
    tmp_path: Path, base: Path, model: ModelFacts
) -> None:
    folder = write_adapter(
        base,
        tmp_path / "saved",
        seed=0,
        r=2,
        lora_alpha=4,
        target_modules=["q_proj"],
        modules_to_save=["embed_tokens"],
    )
    tensors = load_file(folder / WEIGHTS_FILE)
    kept: dict[str, torch.Tensor] = {n: t for n, t in tensors.items() if "lora_" not in n}
    save_file(kept, folder / WEIGHTS_FILE)

    report = examine(read_adapter(folder), model)

    assert (report.rank, report.scaling, report.update_norms, report.parity) == (None,) * 4
    assert {finding.code for finding in report.findings} == {"target_without_tensors"}
