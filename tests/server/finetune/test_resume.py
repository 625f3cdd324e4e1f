"""A run that was stopped ends where it would have ended, to the bit."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lorry_server.finetune.training import Training
from tests.support.finetuning import ROWS, finetune, write_jsonl
from tests.support.tiny_model import write_tiny_model

FLAGS = ("--steps", "8", "--save-every", "3", "--dropout", "0.3", "--eval-split", "0.2")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("data") / "prices.jsonl")


@pytest.fixture
def signal_before_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, signal.Signals], None]:
    """Arrange that the process gets a signal as the step of that number begins."""
    advance = Training.advance

    def arrange(step: int, number: signal.Signals) -> None:
        def signalled(training: Training) -> float:
            if training.step + 1 == step:
                signal.raise_signal(number)
            return advance(training)

        monkeypatch.setattr(Training, "advance", signalled)

    return arrange


def weights(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("more", [(), ("--dora",)])
@pytest.mark.parametrize("stop_step", [2, 3, 7])
def test_run_stopped_by_ctrl_c_and_resumed_gives_the_bits_of_one_that_was_not(
    model: Path,
    data: Path,
    tmp_path: Path,
    stop_step: int,
    more: tuple[str, ...],
    signal_before_step: Callable[[int, signal.Signals], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, stopped = tmp_path / "whole" / "prices", tmp_path / "stopped" / "prices"
    assert finetune(model, data, whole, *FLAGS, *more) == 0
    signal_before_step(stop_step, signal.SIGINT)

    assert finetune(model, data, stopped, *FLAGS, *more) == 130
    assert not stopped.exists()
    assert (stopped.parent / f"prices.step-{stop_step}").is_dir()
    monkeypatch.undo()
    torch.manual_seed(999)  # what the process did meanwhile
    assert finetune(model, data, stopped, *FLAGS, *more, "--resume") == 0

    assert weights(stopped) == weights(whole)
    assert (stopped / "loss.svg").read_bytes() == (whole / "loss.svg").read_bytes()
    assert (stopped / "lorry.json").read_bytes() == (whole / "lorry.json").read_bytes()


def test_process_that_was_killed_goes_on_from_its_last_checkpoint(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, killed = tmp_path / "whole" / "prices", tmp_path / "killed" / "prices"
    assert finetune(model, data, whole, *FLAGS) == 0
    advance = Training.advance

    def fail_at_step_5(training: Training) -> float:
        if training.step == 4:
            raise MemoryError
        return advance(training)

    monkeypatch.setattr(Training, "advance", fail_at_step_5)
    with pytest.raises(MemoryError):
        finetune(model, data, killed, *FLAGS)
    monkeypatch.undo()
    assert [path.name for path in killed.parent.iterdir()] == ["prices.step-3"]

    assert finetune(model, data, killed, *FLAGS, "--resume") == 0

    assert weights(killed) == weights(whole)


def test_sigterm_saves_as_well_and_has_a_status_of_its_own(
    model: Path,
    data: Path,
    tmp_path: Path,
    signal_before_step: Callable[[int, signal.Signals], None],
) -> None:
    signal_before_step(2, signal.SIGTERM)

    assert finetune(model, data, tmp_path / "prices", *FLAGS) == 128 + signal.SIGTERM
    assert (tmp_path / "prices.step-2").is_dir()


def test_second_ctrl_c_ends_at_once_with_what_was_saved(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Training.advance
    before = signal.getsignal(signal.SIGINT)  # a job in the background ignores it

    def interrupted_twice(training: Training) -> float:
        if training.step == 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return advance(training)

    monkeypatch.setattr(Training, "advance", interrupted_twice)

    assert finetune(model, data, tmp_path / "prices", *FLAGS) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["prices.step-3"]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--lr", "0.1"), "--lr was 0.0005 when .* and is 0.1 now"),
        (("--rank", "3", "--alpha", "4"), "--rank was 2"),
        (("--steps", "9"), "--steps was 8"),
        (("--target", "k_proj"), "--target was"),
    ],
)
def test_resuming_with_another_setting_is_refused_by_name(
    model: Path,
    data: Path,
    tmp_path: Path,
    flags: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert finetune(model, data, tmp_path / "prices", *FLAGS) == 0

    assert finetune(model, data, tmp_path / "prices", *FLAGS, *flags, "--resume") == 1

    assert re.search(message, capsys.readouterr().err)


def test_resuming_with_other_data_is_refused(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune(model, data, tmp_path / "prices", *FLAGS) == 0
    other = write_jsonl(tmp_path / "other.jsonl", [*ROWS, {"text": "one more"}])

    assert finetune(model, other, tmp_path / "prices", *FLAGS, "--resume") == 1
    assert "the data are not those" in capsys.readouterr().err


def test_resuming_without_a_checkpoint_is_refused(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune(model, data, tmp_path / "prices", *FLAGS, "--resume") == 1
    assert "--resume: there is no checkpoint beside" in capsys.readouterr().err


def test_damaged_checkpoint_is_named(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune(model, data, tmp_path / "prices", *FLAGS) == 0
    (tmp_path / "prices.step-6" / "training_state.safetensors").write_bytes(b"half")

    assert finetune(model, data, tmp_path / "prices", *FLAGS, "--resume") == 1
    assert "prices.step-6 is not a checkpoint that can be resumed" in capsys.readouterr().err


def test_checkpoint_holds_position_losses_settings_and_moments(
    model: Path, data: Path, tmp_path: Path
) -> None:
    assert finetune(model, data, tmp_path / "prices", *FLAGS) == 0

    folder = tmp_path / "prices.step-6"
    state = json.loads((folder / "training_state.json").read_text())
    tensors = load_file(folder / "training_state.safetensors")
    assert state["step"] == len(state["losses"]) == 6
    assert [step for step, _ in state["held_out_losses"]] == [0, 3, 6]
    assert state["settings"]["rank"] == 2
    assert "generator.cpu" in tensors
    num_parameters = len(load_file(folder / "adapter_model.safetensors"))
    assert len(tensors) == 1 + 3 * num_parameters
