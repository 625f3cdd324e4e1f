"""The doctor: what it finds, what it says, and that its figures are right."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from lorry_server.lora.adapter import read_adapter
from lorry_server.lora.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from lorry_server.lora.base_fingerprint import base_fingerprint
from lorry_server.lora.doctor import examine
from lorry_server.lora.doctor_report import DoctorReport
from lorry_server.lora.model_facts import ModelFacts, layers_of, read_model_facts
from tests.support.default_model import default_model_folder
from tests.support.tiny_adapters import UNLIKE, write_adapter, write_unlike_adapters
from tests.support.tiny_engine import make_tiny_engine
from tests.support.tiny_model import write_tiny_model

Q_PROJ = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture(scope="module")
def unlike(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_unlike_adapters(base, tmp_path_factory.mktemp("unlike"))


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    return write_adapter(
        base, tmp_path / "adapter", seed=1, r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"]
    )


def facts(base: Path, **options: Any) -> ModelFacts:
    return read_model_facts(base, model_id="llama", **({"dtype": "float32"} | options))


def report_on(folder: Path, base: Path, **options: Any) -> DoctorReport:
    return examine(read_adapter(folder), facts(base, **options))


def codes(report: DoctorReport) -> dict[str, str]:
    return {finding.code: finding.severity for finding in report.findings}


def edit_tensors(folder: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / WEIGHTS_FILE)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS_FILE)


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / CONFIG_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rename(old: str, new: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.replace(old, new)] = tensors.pop(name)

    return edit


@pytest.mark.parametrize("name", UNLIKE)
@pytest.mark.parametrize("is_quantized", [False, True])
def test_whatever_peft_saved_is_found_sound(
    name: str, is_quantized: bool, unlike: dict[str, Path], base: Path
) -> None:
    report = report_on(unlike[name], base, is_quantized=is_quantized)

    assert (report.verdict, report.refusal) == ("ok", None)
    assert report.parity is not None
    assert report.parity.has_base_weights
    assert {figure.precision for figure in report.parity.modules} == (
        {"int8"} if is_quantized else {"float32"}
    )
    assert report.parity.relative_error < (0.03 if is_quantized else 1e-5)


def test_the_modules_are_told_in_groups(unlike: dict[str, Path], base: Path) -> None:
    report = report_on(unlike["ranks"], base)

    assert {str(group) for group in report.modules} == {
        "layers 0-1: self_attn.o_proj rank 3 scaling 2",
        "layers 0: self_attn.k_proj rank 3 scaling 2",
        "layers 1: self_attn.k_proj rank 2 scaling 3",
        "layers 0-1: self_attn.q_proj rank 9 scaling 0.555556",
        "layers 0-1: self_attn.v_proj rank 3 scaling 0.333333",
    }
    assert (report.rank.smallest, report.rank.largest) == (2, 9)


def test_the_norms_are_those_of_the_whole_products(folder: Path, base: Path) -> None:
    adapter = read_adapter(folder)
    norms = sorted(
        float(torch.linalg.matrix_norm(weights.b_OR.double() @ weights.a_RI.double()))
        for weights in adapter.modules.values()
    )

    report = examine(adapter, facts(base))

    assert report.update_norms.smallest == pytest.approx(norms[0], rel=1e-5)
    assert report.update_norms.largest == pytest.approx(norms[-1], rel=1e-5)
    assert report.update_norms.num_zero == 0


def test_the_report_is_plain_data(folder: Path, base: Path) -> None:
    report = report_on(folder, base)

    decoded = json.loads(msgspec.json.encode(report))
    assert decoded["verdict"] == "ok"
    assert decoded["parity"]["covers"] == "lora"
    assert decoded["modules"][0]["names"] == ["self_attn.q_proj", "self_attn.v_proj"]


def test_an_update_of_nothing_is_warned_of_by_name(folder: Path, base: Path) -> None:
    def forget(tensors: dict[str, torch.Tensor]) -> None:
        tensors[f"base_model.model.{Q_PROJ}.lora_B.weight"].zero_()

    edit_tensors(folder, forget)
    report = report_on(folder, base)

    assert codes(report) == {"zero_updates": "warn"}
    assert report.update_norms.zero == (Q_PROJ,)
    assert Q_PROJ in report.findings[0].message
    assert report.verdict == "warn"


def test_an_adapter_as_before_training_is_warned_of(folder: Path, base: Path) -> None:
    def forget(tensors: dict[str, torch.Tensor]) -> None:
        for name, values in tensors.items():
            if "lora_B" in name:
                values.zero_()

    edit_tensors(folder, forget)

    assert codes(report_on(folder, base)) == {"does_nothing": "warn"}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "model.model.layers",
            "model.model.language_model.layers",
            "its layers are called 'model.language_model.layers', this model's 'model.layers'",
        ),
        ("model.model.layers", "model.layers", "its layers are called 'layers'"),
        (
            "base_model.model.model",
            "base_model.model.base_model.model.model",
            "its layers are called 'base_model.model.model.layers'",
        ),
        ("q_proj", "query_proj", "no 'self_attn.query_proj'; it has 'self_attn.q_proj'"),
        ("layers.1.", "layers.12.", "layers 0 to 1, not one with the number 12"),
    ],
)
def test_modules_that_match_nothing_are_refused_with_a_hint(
    old: str, new: str, words: str, folder: Path, base: Path
) -> None:
    edit_tensors(folder, rename(old, new))
    report = report_on(folder, base)

    assert report.verdict == "refuse"
    assert report.refusal is not None
    assert words in report.refusal
    for one in report.unmatched:
        assert one.nearest in facts(base).layers


def test_the_nearest_module_is_the_one_that_was_meant(folder: Path, base: Path) -> None:
    edit_tensors(folder, rename("model.model.layers", "model.model.language_model.layers"))
    report = report_on(folder, base)

    assert {one.module: one.nearest for one in report.unmatched} == {
        f"model.language_model.layers.{layer}.self_attn.{name}": (
            f"model.layers.{layer}.self_attn.{name}"
        )
        for layer in (0, 1)
        for name in ("q_proj", "v_proj")
    }
    assert codes(report) == {"unmatched_modules": "refuse", "nothing_matches": "refuse"}


def test_a_part_without_layers_is_a_warning_where_that_is_allowed(folder: Path, base: Path) -> None:
    def add_layer(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.replace("layers.1", "layers.9")] = tensors[name].clone()

    edit_tensors(folder, add_layer)
    adapter = read_adapter(folder)

    assert examine(adapter, facts(base)).verdict == "refuse"
    report = examine(adapter, facts(base), allow_partial=True)
    assert (report.verdict, report.num_unmatched) == ("warn", 2)


def test_wrong_shapes_are_told_with_both_shapes(folder: Path, tmp_path: Path) -> None:
    wide = write_tiny_model(tmp_path / "wide", hidden_size=128)
    report = report_on(folder, wide)

    assert codes(report)["wrong_shapes"] == "refuse"
    assert report.num_wrong_shapes == 4
    assert report.wrong_shapes[0].given == (64, 64)
    assert report.wrong_shapes[0].wanted == (128, 128)
    assert report.refusal is not None
    assert "64 x 64 and the layer is 128 x 128" in report.refusal


def test_a_scaling_that_is_not_the_files_shows_in_the_parity_figure(
    folder: Path, base: Path
) -> None:
    adapter = read_adapter(folder)
    edit_config(folder, lora_alpha=24)  # what was read has 8

    report = examine(adapter, facts(base))

    assert codes(report)["parity"] == "refuse"
    assert report.parity is not None
    assert report.parity.relative_error == pytest.approx(2 / 3, abs=1e-3)


def test_weights_that_are_not_the_files_show_in_the_parity_figure(folder: Path, base: Path) -> None:
    adapter = read_adapter(folder)

    def transpose(tensors: dict[str, torch.Tensor]) -> None:
        name = f"base_model.model.{Q_PROJ}.lora_A.weight"
        tensors[name] = tensors[name].flip(1).contiguous()

    edit_tensors(folder, transpose)

    report = examine(adapter, facts(base, is_quantized=True))
    assert report.parity is not None
    assert report.parity.worst_module == Q_PROJ
    assert report.verdict == "refuse"


def test_a_folder_that_is_gone_leaves_a_note(folder: Path, base: Path) -> None:
    adapter = read_adapter(folder)
    for file in folder.iterdir():
        file.unlink()

    report = examine(adapter, facts(base))

    assert codes(report) == {"changed": "note"}
    assert (report.verdict, report.parity) == ("ok", None)


def test_by_itself_an_adapter_is_compared_with_its_own_product(folder: Path) -> None:
    report = examine(read_adapter(folder), None)

    assert report.verdict == "ok"
    assert report.parity is not None
    assert not report.parity.has_base_weights
    assert report.parity.relative_error < 1e-5


def test_an_update_far_larger_than_the_base_is_warned_of(folder: Path, base: Path) -> None:
    edit_config(folder, lora_alpha=800)

    assert codes(report_on(folder, base)) == {"large_update": "warn"}


def test_a_target_without_tensors_is_warned_of(folder: Path, base: Path) -> None:
    edit_config(folder, target_modules=["q_proj", "v_proj", "o_proj"])
    report = report_on(folder, base)

    assert codes(report) == {"target_without_tensors": "warn"}
    assert "'o_proj'" in report.findings[0].message


def test_the_base_of_the_training_is_recognized_by_its_fingerprint(
    folder: Path, base: Path, tmp_path: Path
) -> None:
    (folder / "lorry.json").write_text(json.dumps({"base_fingerprint": base_fingerprint(base)}))
    report = report_on(folder, base)

    assert (report.verdict, report.base.same_shape, report.base.same_weights) == ("ok", True, True)

    trained_on = write_tiny_model(tmp_path / "trained-on", seed=7)
    report = report_on(folder, trained_on)
    assert codes(report) == {"other_weights": "warn"}
    assert (report.base.same_shape, report.base.same_weights) == (True, False)

    larger = write_tiny_model(tmp_path / "larger", num_hidden_layers=3)
    report = report_on(folder, larger)
    assert codes(report) == {"another_base": "refuse"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("meta-llama/llama", {}),
        ("TinyLlama/TinyLlama-1.1B", {"base_name": "warn"}),
        ("meta-llama/Llama-Q8_0", {"base_name": "note"}),
        ("/srv/models/base", {"base_name": "note"}),
        ("", {}),
    ],
)
def test_another_name_of_the_base_is_told_where_no_fingerprint_says_more(
    name: str, expected: dict[str, str], folder: Path, base: Path
) -> None:
    edit_config(folder, base_model_name_or_path=name)

    assert codes(report_on(folder, base)) == expected


def test_the_layers_of_the_files_are_those_of_the_loaded_model(base: Path) -> None:
    linears = make_tiny_engine(base).model.linears()

    assert layers_of(linears) == dict(facts(base).layers)


@pytest.fixture(scope="module")
def wide_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rank 16 on every linear of the default model."""
    folder = tmp_path_factory.mktemp("smol") / "adapter"
    model = default_model_folder()
    layers = read_model_facts(model, model_id="smol", dtype="float32").layers
    torch.manual_seed(0)
    tensors = {}
    for module, layer in layers.items():
        if module == "lm_head":
            continue
        name = f"base_model.model.{module}"
        tensors[f"{name}.lora_A.weight"] = torch.randn(16, layer.in_features) * 0.04
        tensors[f"{name}.lora_B.weight"] = torch.randn(layer.out_features, 16) * 0.01
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(
        json.dumps({"peft_type": "LORA", "r": 16, "lora_alpha": 32, "target_modules": "all-linear"})
    )
    return folder


def test_a_real_models_adapter_is_examined_in_a_tenth_of_a_second(wide_adapter: Path) -> None:
    model = read_model_facts(
        default_model_folder(), model_id="smol", dtype="float32", is_quantized=True
    )
    adapter = read_adapter(wide_adapter)

    reports, times_s = [], []
    for _ in range(3):
        started_s = time.thread_time()  # what else the machine does is not the doctor's time
        reports.append(examine(adapter, model))
        times_s.append(time.thread_time() - started_s)

    assert {report.verdict for report in reports} == {"ok"}
    assert min(times_s) < 0.1
    assert reports[0].parity == reports[1].parity
