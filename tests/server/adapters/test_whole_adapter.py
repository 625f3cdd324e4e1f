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
    assert why_not_whole(folder) == f"{WEIGHTS} has {len(whole) + 1} of {len(whole)} bytes"


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (b"", f"{WEIGHTS} has only 0 bytes"),
        ((10**12).to_bytes(8, "little"), f"{WEIGHTS} claims a header of {10**12} bytes"),
        ((50).to_bytes(8, "little") + b"{}", f"{WEIGHTS} ends within its header"),
        ((2).to_bytes(8, "little") + b"[]", f"the header of {WEIGHTS} is not one of safetensors"),
        ((2).to_bytes(8, "little") + b"{]", f"the header of {WEIGHTS} is not one of safetensors"),
        (
            (8).to_bytes(8, "little") + b'{"a": 1}',
            f"the header of {WEIGHTS} is not one of safetensors",
        ),
    ],
)
def test_header_that_is_none_is_named(folder: Path, contents: bytes, reason: str) -> None:
    (folder / WEIGHTS).write_bytes(contents)

    assert why_not_whole(folder) == reason


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (b'{"peft_type": "LO', f"{CONFIG} is not whole JSON"),
        (b"\xff", f"{CONFIG} is not whole JSON"),
        (b"[]", f"{CONFIG} holds no JSON object"),
        (b" " * (1 << 21), f"{CONFIG} is larger than {1 << 20} bytes"),
    ],
)
def test_config_that_is_not_whole_is_named(folder: Path, contents: bytes, reason: str) -> None:
    (folder / CONFIG).write_bytes(contents)

    assert why_not_whole(folder) == reason


def test_missing_files_are_named_and_a_pickle_is_left_to_its_reader(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    assert why_not_whole(folder) == f"{WEIGHTS} is not there"
    (folder / "adapter_model.bin").write_bytes(b"pickle")
    assert why_not_whole(folder) is None
    (folder / CONFIG).unlink()
    assert why_not_whole(folder) == f"{CONFIG} is not there"


def test_pipe_is_never_opened(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)

    assert why_not_whole(folder) == f"{WEIGHTS} is not there"
    assert stamps_of(folder)[1] is None


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, "lorry.json"])
def test_every_file_of_an_adapter_changes_its_stamps(folder: Path, name: str) -> None:
    before = stamps_of(folder)
    assert stamps_of(folder) == before

    (folder / name).write_text("something else")

    assert stamps_of(folder) != before
