"""Tensors of safetensors files as float64 arrays, read range by range and without torch.

A second reader beside the one that serves, on purpose: what is served is compared with what this
one finds. It never maps a file into memory, because a mapped file that somebody shortens ends the
process.

Shape legend: R rows that are read, I columns.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"

Floats = npt.NDArray[np.float64]

# What NumPy reads of each; bfloat16 is the upper half of a float32.
_READ_AS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class RawTensor:
    """Where a tensor lies: bytes `start` to `stop` of `file`."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def is_float(self) -> bool:
        return self.dtype in _READ_AS

    def bytes_at(self, offset: int, num_bytes: int) -> bytes:
        """At most `num_bytes` from `offset`, counted from the tensor's own first byte."""
        with self.file.open("rb") as opened:
            opened.seek(self.start + offset)
            return opened.read(max(0, min(num_bytes, self.stop - self.start - offset)))

    def rows(self, start: int, stop: int) -> Floats:
        """Rows of a matrix (elements of a vector), float64.

        Raises ValueError where the numbers are not floats or the file has become shorter.
        """
        if not self.is_float:
            raise ValueError(f"{self.dtype} is not a type of floats")
        kind = np.dtype(_READ_AS[self.dtype])
        width = math.prod(self.shape[1:])
        raw = self.bytes_at(start * width * kind.itemsize, (stop - start) * width * kind.itemsize)
        values = np.frombuffer(raw, dtype=kind)
        if self.dtype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float64).reshape(stop - start, *self.shape[1:])

    def whole(self) -> Floats:
        return self.rows(0, self.shape[0])


class RawTensors:
    """The tensors of one or several safetensors files, by name."""

    def __init__(self, *files: Path) -> None:
        """Raises ValueError that names the file whose header cannot be read, OSError likewise."""
        self._tensors: dict[str, RawTensor] = {}
        for file in files:
            self._tensors |= _read_header(file)

    @classmethod
    def of_model(cls, folder: Path) -> RawTensors:
        """The weights of a model folder: one file, or the shards that its index lists."""
        index = folder / INDEX_FILE
        if not index.is_file():
            return cls(folder / SINGLE_FILE)
        shards = set(json.loads(index.read_bytes())["weight_map"].values())
        return cls(*(folder / Path(str(name)).name for name in sorted(shards)))

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> RawTensor:
        return self._tensors[name]

    def get(self, name: str) -> RawTensor | None:
        return self._tensors.get(name)


def _read_header(file: Path) -> dict[str, RawTensor]:
    with file.open("rb") as opened:
        num_bytes = int.from_bytes(opened.read(8), "little")
        if num_bytes > MAX_HEADER_BYTES:
            raise ValueError(f"{str(file)!r} has a header of {num_bytes} bytes")
        raw = opened.read(num_bytes)
    try:
        header: dict[str, dict[str, Any]] = json.loads(raw)
        return {
            name: RawTensor(
                file=file,
                dtype=str(entry["dtype"]),
                shape=tuple(int(size) for size in entry["shape"]),
                start=8 + num_bytes + int(entry["data_offsets"][0]),
                stop=8 + num_bytes + int(entry["data_offsets"][1]),
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as exc:
        raise ValueError(f"{str(file)!r} has no readable safetensors header") from exc
