"""Whether an adapter's folder is written to its end, from its files' sizes, times and heads.

A safetensors file says in its header how long it is, so one that somebody is still copying is known
by its size. Nothing of the tensors is read.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from lorry_server.errors import AdapterError
from lorry_server.lora.adapter_files import (
    ADAPTER_FILES,
    CONFIG_FILE,
    MAX_SMALL_FILE_BYTES,
    PICKLE_FILE,
    WEIGHTS_FILE,
)
from lorry_server.lora.regular_file import (
    NotRegularError,
    explain_os_error,
    open_folder,
    open_regular,
    read_regular_file,
)
from lorry_server.lora.safetensors_header import check_header


@dataclass(frozen=True, slots=True)
class FileStamp:
    size: int
    mtime_ns: int
    inode: int


Stamps = tuple[FileStamp | None, ...]


def stamps_of(folder: Path) -> Stamps:
    """What changes when a file of the adapter does; None for what is not a file, or is a link."""
    return tuple(_stamp(folder / name) for name in (*ADAPTER_FILES, PICKLE_FILE))


def why_not_whole(folder: Path) -> str | None:
    """What is missing yet, or None when a reader would find everything.

    There is no link in the path `folder`. A pickle counts as there: that it is refused is for its
    reader to say.
    """
    try:
        config = json.loads(read_regular_file(folder / CONFIG_FILE, max_bytes=MAX_SMALL_FILE_BYTES))
    except (ValueError, RecursionError):
        return f"{CONFIG_FILE} is not whole JSON"
    except AdapterError as exc:
        return str(exc)
    if not isinstance(config, dict):
        return f"{CONFIG_FILE} holds no JSON object"
    if _stamp(folder / WEIGHTS_FILE) is None and _stamp(folder / PICKLE_FILE) is not None:
        return None
    try:
        folder_fd = open_folder(folder)
        try:
            file_fd = open_regular(WEIGHTS_FILE, folder_fd=folder_fd)
        finally:
            os.close(folder_fd)
        with open(file_fd, "rb") as opened:
            check_header(opened)
    except NotRegularError as exc:
        return f"{WEIGHTS_FILE} is {exc}, not a regular file"
    except OSError as exc:
        return f"{WEIGHTS_FILE} {explain_os_error(exc)}"
    except AdapterError as exc:
        return f"{WEIGHTS_FILE} is {exc}"
    return None


def _stamp(path: Path) -> FileStamp | None:
    try:
        found = path.stat(follow_symlinks=False)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return FileStamp(found.st_size, found.st_mtime_ns, found.st_ino)
