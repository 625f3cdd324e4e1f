"""`Place`: one folder somewhere, asked what is in it and read from."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lorry_server.adapters.source import AdapterSourceError
from lorry_server.lora.adapter_files import (
    MAX_SMALL_FILE_BYTES,
    PICKLE_FILE,
    REQUIRED_FILES,
    WEIGHTS_FILE,
)

PIECE_BYTES = 1 << 20


class OfflineError(AdapterSourceError):
    """The place may not be asked, because the operator has forbidden the network."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """`num_bytes` is what the place says, which need not be true; None: it does not say."""

    name: str
    num_bytes: int | None


@dataclass(frozen=True, slots=True)
class Description:
    """What lies at a place now.

    `version` changes with any of the files; None when the place cannot tell. `folder` is set where
    the files are on this machine already and can be read as they are. `is_snapshot` promises that
    what is read is this version, whatever happens to the place meanwhile.
    """

    files: tuple[SourceFile, ...]
    version: str | None
    folder: Path | None = None
    is_snapshot: bool = False


class Place(Protocol):
    """Both methods block, perhaps for ever, and raise AdapterSourceError with a sentence."""

    def describe(self) -> Description: ...

    def read(self, file: SourceFile) -> Generator[bytes, None, None]:
        """Yield the file's content in pieces of about `PIECE_BYTES`."""
        ...


def check_files(
    files: tuple[SourceFile, ...], *, source: str, has_pickle: Callable[[], bool]
) -> None:
    """Raise AdapterSourceError that names the file which is missing."""
    names = {file.name for file in files}
    for wanted in REQUIRED_FILES:
        if wanted in names:
            continue
        if wanted == WEIGHTS_FILE and has_pickle():
            raise AdapterSourceError(
                f"{source!r} has its weights in {PICKLE_FILE}, a pickle, which can run code when "
                f"it is read; save the adapter as {WEIGHTS_FILE}"
            )
        raise AdapterSourceError(f"there is no {wanted} at {source!r}", is_missing=True)


def check_sizes(files: tuple[SourceFile, ...], *, source: str, max_bytes: int) -> None:
    """Raise AdapterSourceError where what the place says is more than is allowed."""
    for file in files:
        if file.num_bytes is not None and file.num_bytes > most_bytes(file, max_bytes):
            refuse_size(file, file.num_bytes, source=source, max_bytes=max_bytes)


def most_bytes(file: SourceFile, max_bytes: int) -> int:
    return max_bytes if file.name == WEIGHTS_FILE else min(MAX_SMALL_FILE_BYTES, max_bytes)


def refuse_size(file: SourceFile, num_bytes: int, *, source: str, max_bytes: int) -> None:
    """Raise AdapterSourceError that names both numbers and what would allow more."""
    most = most_bytes(file, max_bytes)
    advice = "; --max-adapter-bytes allows more" if most == max_bytes else ""
    raise AdapterSourceError(
        f"{file.name} at {source!r} has {num_bytes} bytes or more; {most} are allowed{advice}"
    )
