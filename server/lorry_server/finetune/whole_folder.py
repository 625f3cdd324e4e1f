"""Folders that appear, change and go as a whole, so that no reader ever sees half of one."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_whole(folder: Path) -> Iterator[Path]:
    """A new folder to write to, which takes the place of `folder` once it is safe on disk.

    Until then it is a hidden neighbour of `folder`, and gone again if writing fails. Between the
    end of an old `folder` and the new one there is a moment without any.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        unfinished.chmod(0o755)  # mkdtemp's is for its owner alone; a server may be someone else
        yield unfinished
        for path in (*unfinished.iterdir(), unfinished):
            _sync(path)
        removed_whole(folder)
        unfinished.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def removed_whole(folder: Path) -> None:
    """Take `folder` away from its name, then delete it. Nothing happens if there is none."""
    if not folder.exists():
        return
    hidden = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    folder.rename(hidden / folder.name)
    shutil.rmtree(hidden)


def remove_leftovers(folder: Path) -> None:
    """Delete what writers of `folder` left hidden beside it when they were killed."""
    leftover = re.compile(re.escape(f".{folder.name}-") + "[a-z0-9_]{8}")
    for path in folder.parent.glob(".*"):
        if leftover.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
