"""`lorry finetune` from flags to folders, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lorry_server.finetune import cli
from lorry_server.lora.adapter import read_adapter
from lorry_server.lora.base_fingerprint import base_fingerprint
from tests.support.finetuning import ROWS, finetune, write_jsonl
from tests.support.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("data") / "prices.jsonl")


def test_run_leaves_an_adapter_that_peft_and_the_server_read_and_that_changes_the_logits(
    model: Path, data: Path, tmp_path: Path
) -> None:
    assert finetune(model, data, tmp_path / "prices", "--steps", "3") == 0

    adapter = read_adapter(tmp_path / "prices")
    assert (adapter.rank, adapter.alpha) == (2, 4.0)
    assert adapter.target_modules == ("down_proj", "q_proj")
    base = AutoModelForCausalLM.from_pretrained(model)
    ids_BT = torch.tensor([[5, 6, 7]])
    plain = base(ids_BT).logits
    assert not torch.equal(
        PeftModel.from_pretrained(base, tmp_path / "prices")(ids_BT).logits, plain
    )


def test_folder_has_config_weights_card_and_curve_and_nothing_lies_beside_it(
    model: Path, data: Path, tmp_path: Path
) -> None:
    flags = ("--steps", "2", "--description", "Prices of pumps.")
    assert finetune(model, data, tmp_path / "prices", *flags) == 0

    assert [path.name for path in tmp_path.iterdir()] == ["prices"]
    assert sorted(path.name for path in (tmp_path / "prices").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "lorry.json",
        "loss.svg",
    ]
    config = json.loads((tmp_path / "prices" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny"
    assert config["target_modules"] == ["down_proj", "q_proj"]
    assert config["inference_mode"] is True
    card = json.loads((tmp_path / "prices" / "lorry.json").read_text())
    assert card == {
        "description": "Prices of pumps.",
        "base_fingerprint": base_fingerprint(model),
    }


def test_run_prints_what_is_frozen_what_is_trained_and_the_curve(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune(model, data, tmp_path / "prices", "--steps", "2", "--eval-split", "0.3") == 0

    captured = capsys.readouterr()
    rows = [line.split() for line in captured.out.splitlines()]
    assert ["q_proj", "2", "64", "x", "64", "2", "x", "(64", "+", "64)", "512"] in rows
    assert ["down_proj", "2", "96", "x", "64", "2", "x", "(96", "+", "64)", "640"] in rows
    assert "trained  1,152 parameters" in captured.out
    assert "frozen   " in captured.out
    assert "held out: " in captured.out
    assert "step 2/2" in captured.err


def test_same_seed_gives_the_same_bytes_and_another_seed_others(
    model: Path, data: Path, tmp_path: Path
) -> None:
    folders = []
    for run, seed in enumerate(("1", "1", "2")):
        folders.append(tmp_path / str(run) / "prices")
        assert finetune(model, data, folders[-1], "--steps", "2", "--seed", seed) == 0

    first, second, other = (
        {
            name: (folder / name).read_bytes()
            for name in ("adapter_config.json", "adapter_model.safetensors")
        }
        for folder in folders
    )
    assert first == second
    assert first["adapter_model.safetensors"] != other["adapter_model.safetensors"]


def test_checkpoints_are_adapters_of_their_own_and_the_last_are_kept(
    model: Path, data: Path, tmp_path: Path
) -> None:
    flags = ("--steps", "9", "--save-every", "2", "--keep", "2")
    assert finetune(model, data, tmp_path / "prices", *flags) == 0

    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["prices", "prices.step-6", "prices.step-8"]
    digests = {read_adapter(tmp_path / name).digest for name in names}
    assert len(digests) == 3


def test_existing_adapter_is_replaced_only_when_that_is_asked_for(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "prices"
    assert finetune(model, data, output, "--steps", "5", "--save-every", "2") == 0
    before = read_adapter(output).digest

    assert finetune(model, data, output, "--steps", "3") == 1
    assert "--overwrite begins anew" in capsys.readouterr().err
    assert read_adapter(output).digest == before

    assert finetune(model, data, output, "--steps", "3", "--overwrite") == 0
    assert read_adapter(output).digest != before
    assert [path.name for path in tmp_path.iterdir()] == ["prices"]


def test_bad_data_is_told_by_line_and_leaves_nothing_behind(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_jsonl(tmp_path / "bad.jsonl", [*ROWS, {"what": "is this"}])

    assert finetune(model, data, tmp_path / "out" / "prices", "--steps", "2") == 1

    assert 'line 6: one of "messages"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--rank", "0"], "argument --rank: invalid value '0': it must be between 1 and 512"),
        (["--lr", "nan"], "argument --lr"),
        (["--steps", "2", "--epochs", "1"], "not allowed with argument"),
        (["--batch-size", "many"], "argument --batch-size: invalid value 'many'"),
        (["--eval-split", "1"], "argument --eval-split"),
    ],
)
def test_wrong_flag_is_refused_by_name(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["--data", "x.jsonl", "--name", "x", *flags])

    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--name", "../x"], "--name: adapter name"),
        (["--name", "team/x"], "--name 'team/x' has a '/'"),
        (["--name", "x" * 96], "--name: adapter name"),
        (["--name", "x", "--output", "adapters/y"], "must end in the adapter's name, 'x'"),
        (["--name", "x", "--resume", "--overwrite"], "exclude each other"),
        (["--name", "x", "--description", "x" * 5000], "--description has more than 4096"),
    ],
)
def test_name_that_could_not_be_served_is_refused(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["--data", "x.jsonl", *flags]) == 1
    assert message in capsys.readouterr().err
