"""The second reader of safetensors finds what the library wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lorry_server.lora.raw_tensors import RawTensors


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str
)
def test_rows_of_every_type_of_floats_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    values = torch.randn(7, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    save_file({"first": torch.ones(3), "second": values}, tmp_path / "x.safetensors")

    tensor = RawTensors(tmp_path / "x.safetensors")["second"]

    assert tensor.shape == (7, 5)
    np.testing.assert_array_equal(tensor.whole(), values.double().numpy())
    np.testing.assert_array_equal(tensor.rows(2, 4), values[2:4].double().numpy())


def test_numbers_that_are_no_floats_are_refused(tmp_path: Path) -> None:
    save_file({"x": torch.ones(3, dtype=torch.int8)}, tmp_path / "x.safetensors")

    with pytest.raises(ValueError, match="I8 is not"):
        RawTensors(tmp_path / "x.safetensors")["x"].whole()


def test_a_file_that_became_shorter_is_an_error_and_no_crash(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"x": torch.ones(100, 100)}, file)
    tensors = RawTensors(file)
    with file.open("r+b") as opened:
        opened.truncate(1000)

    with pytest.raises(ValueError, match="reshape"):
        tensors["x"].whole()


def test_a_header_that_is_none_is_refused_by_the_files_name(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0[]")

    with pytest.raises(ValueError, match=r"x\.safetensors"):
        RawTensors(tmp_path / "x.safetensors")
