"""Whether an adapter's folder is written to its end, from its files' sizes, times and heads.

A safetensors file names the end of its last tensor in its header, so a file that somebody is still
copying is known by its size. Nothing of the tensors is read.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILES = ("adapter_model.safetensors", "adapter_model.bin")
CARD_FILE = "lorry.json"
MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit
MAX_CONFIG_BYTES = 1 << 20
_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True)
class FileStamp:
    size: int
    mtime_ns: int
    inode: int


Stamps = tuple[FileStamp | None, ...]


def stamps_of(folder: Path) -> Stamps:
    """What changes when a file of the adapter does; None for a file that is not there."""
    return tuple(_stamp(folder / name) for name in (CONFIG_FILE, *WEIGHTS_FILES, CARD_FILE))


def why_not_whole(folder: Path) -> str | None:
    """What is missing yet, or None when a reader would find everything.

    A pickle counts as there: that it is refused is for its reader to say.
    """
    try:
        config = _read_start(folder / CONFIG_FILE, MAX_CONFIG_BYTES + 1)
        if len(config) > MAX_CONFIG_BYTES:
            return f"{CONFIG_FILE} is larger than {MAX_CONFIG_BYTES} bytes"
        if not isinstance(json.loads(config), dict):
            return f"{CONFIG_FILE} holds no JSON object"
    except FileNotFoundError:
        return f"{CONFIG_FILE} is not there"
    except (ValueError, RecursionError):
        return f"{CONFIG_FILE} is not whole JSON"
    except OSError as exc:
        return f"{CONFIG_FILE} cannot be read: {exc.strerror}"
    safetensors, pickle = (folder / name for name in WEIGHTS_FILES)
    if not safetensors.is_file():
        return None if pickle.is_file() else f"{safetensors.name} is not there"
    try:
        return _why_weights_are_not_whole(safetensors)
    except OSError as exc:
        return f"{safetensors.name} cannot be read: {exc.strerror}"


def _why_weights_are_not_whole(path: Path) -> str | None:
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        head = stream.read(_LENGTH_BYTES)
        if len(head) < _LENGTH_BYTES:
            return f"{path.name} has only {size} bytes"
        num_header_bytes = int.from_bytes(head, "little")
        if num_header_bytes > MAX_HEADER_BYTES:
            return f"{path.name} claims a header of {num_header_bytes} bytes"
        raw = stream.read(num_header_bytes)
    if len(raw) < num_header_bytes:
        return f"{path.name} ends within its header"
    try:
        ends = [
            int(entry["data_offsets"][1])
            for name, entry in json.loads(raw).items()
            if name != "__metadata__"
        ]
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError, IndexError):
        return f"the header of {path.name} is not one of safetensors"
    whole = _LENGTH_BYTES + num_header_bytes + max(ends, default=0)
    return None if size == whole else f"{path.name} has {size} of {whole} bytes"


def _read_start(path: Path, num_bytes: int) -> bytes:
    with path.open("rb") as stream:
        return stream.read(num_bytes)


def _stamp(path: Path) -> FileStamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None  # a pipe would make its reader wait
    return FileStamp(found.st_size, found.st_mtime_ns, found.st_ino)
