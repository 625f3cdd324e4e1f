"""A safetensors header is held against its file before a tensor is read."""

from __future__ import annotations

import io
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from lorry_server.errors import AdapterError
from lorry_server.lora.safetensors_header import (
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    TensorInfo,
    check_header,
)
from tests.support.plain_adapters import safetensors_file

VALID = save(
    {
        "a.lora_A.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "a.lora_B.weight": torch.ones(4, 2, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 5),
        "scalar": torch.tensor(1.0, dtype=torch.float64),
    },
    metadata={"format": "pt"},
)


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | changes


def check_entry(**changes: Any) -> tuple[TensorInfo, ...]:
    return check_header(safetensors_file({"x": entry(**changes)}, bytes(16)))


def test_a_file_of_the_library_is_described_as_it_is() -> None:
    tensors = {tensor.name: tensor for tensor in check_header(VALID)}

    a = tensors["a.lora_A.weight"]
    assert (a.dtype, a.shape, a.num_bytes) == ("F32", (2, 3), 24)
    assert torch.frombuffer(bytearray(VALID[a.start : a.stop]), dtype=torch.float32).tolist() == [
        *range(6)
    ]
    assert tensors["a.lora_B.weight"].dtype == "BF16"
    assert tensors["empty"].num_bytes == 0
    assert tensors["scalar"].shape == ()


def test_an_open_file_is_checked_without_reading_its_tensors(tmp_path: Path) -> None:
    class Counting(io.BytesIO):
        num_read = 0

        def read(self, size: int | None = -1) -> bytes:
            content = super().read(size)
            self.num_read += len(content)
            return content

    big = safetensors_file({"x": entry(shape=[1 << 20], data_offsets=[0, 1 << 22])}, bytes(1 << 22))
    opened = Counting(big)

    assert check_header(opened) == check_header(big)
    assert opened.num_read < 200


def test_every_truncation_is_refused() -> None:
    for length in range(len(VALID)):
        with pytest.raises(AdapterError):
            check_header(VALID[:length])


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (b"", "0 bytes, too few"),
        (VALID[:-1], "cut off"),
        (VALID + b"x", "1 bytes more than its tensors take"),
        (safetensors_file(b"{}", length=2**64 - 1), "header says that it has 18446744073709551615"),
        (safetensors_file(b"{}", length=100_000_000), f"{MAX_HEADER_BYTES} are allowed"),
        (safetensors_file(b"{}", length=3), "it was cut off"),
        (safetensors_file(b"[]"), "does not begin with"),
        (safetensors_file(b' {"a":1}'), "does not begin with"),
        (safetensors_file(b'{"\xff": 1}'), "not valid JSON"),
        (safetensors_file(b'{"x": '), "not valid JSON"),
        (safetensors_file(b'{"x": ' + b"[" * 100_000), "nested too deeply"),
        (safetensors_file(b'{"x": ' + b"9" * 5000 + b"}"), "not valid JSON"),
        (safetensors_file(b'{"x": NaN}'), "the number NaN"),
        (safetensors_file(b'{"x": 1.5}'), "the number 1.5"),
        (safetensors_file(b'{"x": {}, "x": {}}'), "has 'x' twice"),
        (safetensors_file(b'{"__metadata__": {"a": 1}}'), "not an object of strings"),
        (safetensors_file(b'{"__metadata__": []}'), "not an object of strings"),
        (safetensors_file({"n" * 513: entry()}, bytes(16)), "a tensor's name has 513 characters"),
        (safetensors_file({"x": []}), "must have dtype, shape and data_offsets"),
        (safetensors_file({"x": entry(more=1)}, bytes(16)), "and nothing else"),
    ],
)
def test_what_is_wrong_with_the_whole_is_said(file: bytes, words: str) -> None:
    with pytest.raises(AdapterError, match="not a valid safetensors file") as caught:
        check_header(file)

    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": "F31"}, "the dtype 'F31', which is not known"),
        ({"dtype": [[["F32"]]]}, "the dtype a list"),
        ({"shape": [-2, -2]}, "a shape that is not a list of sizes"),
        ({"shape": [True, 4]}, "a shape that is not a list of sizes"),
        ({"shape": "22"}, "a shape that is not a list of sizes"),
        ({"shape": [2**63]}, "a shape that is not a list of sizes"),
        ({"shape": [1] * 9}, "9 dimensions"),
        ({"shape": [2**33, 2**33]}, "has 16 bytes; its shape and dtype F32 make"),
        ({"shape": [2**62] * 8}, "make more than 10^38"),
        ({"shape": [2, 3]}, "has 16 bytes; its shape and dtype F32 make 24"),
        ({"dtype": "F16"}, "has 16 bytes; its shape and dtype F16 make 8"),
        ({"data_offsets": [16, 0]}, "not a start and an end after it"),
        ({"data_offsets": [-16, 0]}, "not a start and an end after it"),
        ({"data_offsets": [0, 8, 16]}, "not a start and an end after it"),
        ({"data_offsets": [16, 32]}, "a hole before tensor 'x'"),
        ({"data_offsets": [2**62, 2**62 + 16]}, "a hole before tensor 'x'"),
    ],
)
def test_what_is_wrong_with_a_tensor_is_said(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(AdapterError, match=r"tensor 'x'") as caught:
        check_entry(**changes)

    assert words in str(caught.value)


def test_tensors_that_overlap_are_refused() -> None:
    header = {"x": entry(), "y": entry(data_offsets=[8, 24])}

    with pytest.raises(AdapterError, match="tensor 'y' overlaps another one"):
        check_header(safetensors_file(header, bytes(24)))


def test_more_tensors_than_are_allowed_are_refused() -> None:
    one = b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    header = b"{" + b",".join(one % index for index in range(MAX_TENSORS + 1)) + b"}"

    with pytest.raises(AdapterError, match=f"{MAX_TENSORS} are allowed"):
        check_header(safetensors_file(header))


@pytest.mark.parametrize(
    "filling", [b'"a":[],', b'{"a":', b"[],", b'"a",', b"[", b'"', b"1,", b" ", b"\\u0000"]
)
def test_a_header_bomb_takes_little_time_and_memory(filling: bytes) -> None:
    bomb = safetensors_file(b'{"x":[' + filling * ((MAX_HEADER_BYTES - 8) // len(filling)))
    tracemalloc.start()
    started_s = time.thread_time()
    try:
        with pytest.raises(AdapterError):
            check_header(bomb)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert time.thread_time() - started_s < 2  # with every allocation traced
    assert peak_bytes < 6 * MAX_HEADER_BYTES


def check_only_adapter_errors(file: bytes) -> None:
    try:
        tensors = check_header(file)
    except AdapterError:
        return
    assert all(tensor.stop <= len(file) for tensor in tensors)


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_refused_and_nothing_else_happens(content: bytes) -> None:
    check_only_adapter_errors(content)
    check_only_adapter_errors(safetensors_file(content))
    check_only_adapter_errors(safetensors_file(b"{" + content + b"}"))


@given(
    st.lists(
        st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=6
    ),
    st.integers(-8, 8),
)
@settings(max_examples=200, deadline=None)
def test_a_mutated_file_is_refused_or_whole(changes: list[tuple[int, int]], growth: int) -> None:
    file = bytearray(VALID)
    for position, value in changes:
        file[position] = value

    check_only_adapter_errors(bytes(file[:growth] if growth < 0 else file + bytes(growth)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


@given(
    st.dictionaries(
        st.text(max_size=8) | st.just("__metadata__"),
        JSON
        | st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "BF16", "U8", "F4", ""]) | JSON,
                "shape": st.lists(st.integers(-2, 9) | st.just(2**64), max_size=10) | JSON,
                "data_offsets": st.lists(st.integers(-2, 64), min_size=2, max_size=2) | JSON,
            }
        ),
        max_size=3,
    ),
    st.integers(0, 64),
)
@settings(max_examples=150, deadline=None)
def test_any_json_is_refused_or_describes_the_file(header: dict[str, Any], size: int) -> None:
    check_only_adapter_errors(safetensors_file(json.dumps(header).encode(), bytes(size)))
