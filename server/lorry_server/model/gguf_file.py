"""Reads a GGUF file: metadata at once, tensors one by one (format: ggml's docs/gguf.md, version 3).

The reader of the package `gguf` takes seconds for a vocabulary, because it maps each string apart.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True, slots=True)
class _TensorInfo:
    shape: tuple[int, ...]  # rows first, as in torch
    kind: int
    offset: int  # from the start of the data


class GGUFFile:
    """The metadata and tensors of one file. Raises `ValueError` or `struct.error` if damaged."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as stream:
            # unmapped when the last array that was read from it is gone
            self._data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        self._position = len(MAGIC)
        (version,) = self._unpack("I")
        if self._data[: len(MAGIC)] != MAGIC or version not in VERSIONS:
            raise ValueError(f"{path} is not a GGUF file of version 2 or 3")
        num_tensors, num_values = self._unpack("QQ")
        self.metadata: dict[str, Any] = {}
        for _ in range(num_values):
            key = self._string()
            self.metadata[key] = self._value(*self._unpack("I"))
        self._tensors = dict(self._tensor_info() for _ in range(num_tensors))
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        self._data_start = -(-self._position // alignment) * alignment

    @property
    def tensor_names(self) -> set[str]:
        return set(self._tensors)

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """The tensor, dequantized."""
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize, quant_shape_to_byte_shape

        info = self._tensors[name]
        kind = GGMLQuantizationType(info.kind)
        num_bytes = quant_shape_to_byte_shape(info.shape, kind)
        raw = np.frombuffer(
            self._data,
            dtype=np.uint8,
            count=int(np.prod(num_bytes)),
            offset=self._data_start + info.offset,
        )
        values: npt.NDArray[np.float32] = dequantize(raw.reshape(num_bytes), kind)
        return values.reshape(info.shape)

    def _tensor_info(self) -> tuple[str, _TensorInfo]:
        name = self._string()
        (num_dimensions,) = self._unpack("I")
        shape = self._unpack(f"{num_dimensions}Q")
        kind, offset = self._unpack("IQ")
        return name, _TensorInfo(tuple(reversed(shape)), kind=kind, offset=offset)

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            element, count = self._unpack("IQ")
            if element in SCALARS:
                return self._numbers(SCALARS[element], count)
            return [self._value(element) for _ in range(count)]
        if kind not in SCALARS:
            raise ValueError(f"unknown kind {kind} of a GGUF value")
        return self._unpack(SCALARS[kind])[0]

    def _numbers(self, code: str, count: int) -> list[Any]:
        values = np.frombuffer(self._data, dtype=f"<{code}", count=count, offset=self._position)
        self._position += values.nbytes
        return list(values.tolist())

    def _string(self) -> str:
        (length,) = self._unpack("Q")
        stop = self._position + length
        if stop > len(self._data):
            raise ValueError("a GGUF string is longer than the file")
        text = self._data[self._position : stop].decode("utf-8", errors="replace")
        self._position = stop
        return text

    def _unpack(self, codes: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{codes}", self._data, self._position)
        self._position += struct.calcsize(f"<{codes}")
        return values
