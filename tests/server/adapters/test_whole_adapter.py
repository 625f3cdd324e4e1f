"""A folder that somebody is still writing is told from one that is whole."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lorry_server.adapters.whole_adapter import stamps_of, why_not_whole

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / CONFIG).write_text(json.dumps({"peft_type": "LORA"}))
    tensors = {"a": torch.ones(3, 4), "b": torch.zeros(2, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / WEIGHTS, metadata={"format": "pt"})
    return tmp_path


def test_written_folder_is_whole(folder: Path) -> None:
    assert why_not_whole(folder) is None


def test_weights_are_whole_only_with_their_last_byte(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()

    for num_bytes in range(len(whole)):
        (folder / WEIGHTS).write_bytes(whole[:num_bytes])
        assert why_not_whole(folder) is not None, num_bytes

    (folder / WEIGHTS).write_bytes(whole + b"\0")
    reason = why_not_whole(folder)
    assert reason is not None
    assert "1 bytes more than its tensors take" in reason


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (b'{"peft_type": "LO', "is not whole JSON"),
        (b"\xff", "is not whole JSON"),
        (b"[" * 10_000, "is not whole JSON"),
        (b"[]", "holds no JSON object"),
        (b" " * (1 << 21), f"has {1 << 21} bytes; {1 << 20} are allowed"),
    ],
)
def test_config_that_is_not_whole_is_named(folder: Path, contents: bytes, reason: str) -> None:
    (folder / CONFIG).write_bytes(contents)

    told = why_not_whole(folder)

    assert told is not None
    assert CONFIG in told
    assert reason in told


def test_missing_files_are_named_and_a_pickle_is_left_to_its_reader(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    assert why_not_whole(folder) == f"{WEIGHTS} is not there"
    (folder / "adapter_model.bin").write_bytes(b"pickle")
    assert why_not_whole(folder) is None
    (folder / CONFIG).unlink()
    assert "is not there" in str(why_not_whole(folder))


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_pipe_is_never_waited_for(folder: Path, name: str) -> None:
    num_files = len(stamps_of(folder)) - stamps_of(folder).count(None)
    (folder / name).unlink()
    os.mkfifo(folder / name)

    assert "is a named pipe, not a regular file" in str(why_not_whole(folder))
    assert len(stamps_of(folder)) - stamps_of(folder).count(None) == num_files - 1


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_link_in_place_of_a_file_is_not_followed(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")

    assert "is a symbolic link, not a regular file" in str(why_not_whole(folder))


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, "lorry.json", "adapter_model.bin"])
def test_every_file_of_an_adapter_changes_its_stamps(folder: Path, name: str) -> None:
    before = stamps_of(folder)
    assert stamps_of(folder) == before

    (folder / name).write_text("something else")

    assert stamps_of(folder) != before
