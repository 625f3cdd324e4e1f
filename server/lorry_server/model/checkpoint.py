"""`Checkpoint`: the safetensors files of a model folder, read one tensor at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lorry_server.errors import ModelError

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
FLOATS = ("F64", "F32", "F16", "BF16")


class Checkpoint:
    """One `model.safetensors`, or the shards that `model.safetensors.index.json` lists.

    A context manager. Files are mapped into memory, so only what is asked for is read.
    """

    def __init__(self, folder: Path) -> None:
        """Raises `ModelError` that names the file which is missing, damaged or a pickle."""
        self._files: list[Any] = []  # safetensors' handle has no public type
        self._file_of: dict[str, Any] = {}
        try:
            for path in _safetensors_files(folder):
                self._open(path)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        for file in self._files:
            file.__exit__(None, None, None)
        self._files.clear()
        self._file_of.clear()

    def names(self) -> Iterator[str]:
        return iter(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Read from the header; raises `ModelError` for a tensor that is not of floats."""
        header = self._file_of[name].get_slice(name)
        if header.get_dtype() not in FLOATS:
            raise ModelError(
                f"tensor {name} has type {header.get_dtype()}; "
                f"checkpoints must hold one of {', '.join(FLOATS)}"
            )
        return tuple(header.get_shape())

    def read(self, name: str) -> Tensor:
        tensor: Tensor = self._file_of[name].get_tensor(name)
        return tensor

    def _open(self, path: Path) -> None:
        try:
            opened: Any = safe_open(path, framework="pt", device="cpu")
            file = opened.__enter__()
        except FileNotFoundError:
            raise ModelError(f"{path} is missing, though the index names it") from None
        except (SafetensorError, OSError) as exc:
            raise ModelError(f"{path} is damaged or not a safetensors file: {exc}") from exc
        self._files.append(file)
        for name in file.keys():  # noqa: SIM118 - a handle is not a mapping
            if name in self._file_of:
                raise ModelError(f"tensor {name} is in more than one file of {path.parent}")
            self._file_of[name] = file


def _safetensors_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return _shards(index)
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    pickles = sorted(
        path.name for path in folder.iterdir() if path.suffix.lower() in PICKLE_SUFFIXES
    )
    if pickles:
        raise ModelError(
            f"{folder} holds its weights as pickles ({', '.join(pickles)}), which can run any code "
            "when they are read; convert them to safetensors"
        )
    raise ModelError(f"{folder} has no model.safetensors and no model.safetensors.index.json")


def _shards(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as exc:
        raise ModelError(f"{index} is not an index of safetensors files: {exc!r}") from exc
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelError(f"{index} names {name!r}, which is not a file beside it")
        if not name.endswith(".safetensors"):
            raise ModelError(f"{index} names {name!r}, which is not a safetensors file")
    return [index.parent / name for name in sorted(names)]
