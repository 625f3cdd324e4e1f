"""Converts a GGUF file once to a Hugging Face folder in the cache, from which later starts load.

Llama is read by our own code; the other architectures by transformers, which is slow.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from lorry_server.errors import ModelError
from lorry_server.model.gguf_file import MAGIC, GGUFFile
from lorry_server.model.gguf_llama import convert_llama, is_plain_llama

Progress = Callable[[str], None]
Writer = Callable[[Path, Path, Progress], None]

# what the readers of GGUF raise for damaged files and for architectures they do not know
UNREADABLE = (ValueError, KeyError, IndexError, NotImplementedError, OSError, struct.error)
FORMAT = 1  # of the folders written here; part of their names
NUM_SAMPLES = 64
SAMPLE_BYTES = 65536


def convert_gguf(
    file: Path, *, cache_dir: Path, progress: Progress, write: Writer | None = None
) -> Path:
    """The converted folder of `file`, made if the cache does not have it.

    The folder appears whole or not at all, also when two processes convert at once: the first to
    finish wins. `write` replaces what fills the folder. Raises `ModelError` for a file that is
    damaged or not GGUF, or whose architecture transformers cannot convert.
    """
    folder = converted_folder(file, cache_dir=cache_dir)
    if folder.is_dir():
        return folder
    progress(f"converting {file.name}, once, to {folder}")
    with _appearing_whole(folder) as unfinished:
        (write or write_converted)(file, unfinished, progress)
    progress("conversion done")
    return folder


def converted_folder(file: Path, *, cache_dir: Path) -> Path:
    """Where the conversion of `file` is kept; the name changes with the file's contents."""
    return cache_dir / "models" / f"{file.stem}-{_fingerprint(file)}"


def _fingerprint(file: Path) -> str:
    """Of the size and of samples spread over the file: reading all of it could take a minute."""
    digest = hashlib.blake2b(digest_size=8)
    try:
        with file.open("rb") as stream:
            if stream.read(len(MAGIC)) != MAGIC:
                raise ModelError(f"{file} is not a GGUF file: it does not begin with 'GGUF'")
            size = os.fstat(stream.fileno()).st_size
            digest.update(f"{FORMAT}:{size}".encode())
            last_start = max(0, size - SAMPLE_BYTES)
            for index in range(NUM_SAMPLES):
                stream.seek(last_start * index // (NUM_SAMPLES - 1))
                digest.update(stream.read(SAMPLE_BYTES))
    except OSError as exc:
        raise ModelError(f"cannot read {file}: {exc.strerror}") from exc
    return digest.hexdigest()


@contextmanager
def _appearing_whole(folder: Path) -> Iterator[Path]:
    """A new folder to write to, which takes the name `folder` once it is safe on disk."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield unfinished
        for path in (*unfinished.iterdir(), unfinished):
            _sync(path)
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
            # another process was first, and made the same
        _sync(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_converted(file: Path, folder: Path, progress: Progress) -> None:
    """Write weights in bfloat16, tokenizer and configuration of `file` to the empty `folder`."""
    try:
        contents = GGUFFile(file)
        if is_plain_llama(contents):
            progress("reading and dequantizing")
            converted = convert_llama(contents)
        else:
            # transformers takes seconds to import
            from lorry_server.model.gguf_transformers import convert_with_transformers

            progress("reading and dequantizing with transformers, which takes a while")
            converted = convert_with_transformers(file, contents)
    except UNREADABLE as exc:
        raise ModelError(f"cannot convert {file}: {exc}") from exc
    _make_special(converted.tokenizer, contents)
    progress("writing the converted model")
    converted.write(folder)


def _make_special(tokenizer: Tokenizer, contents: GGUFFile) -> None:
    """Make every control token of the file one token in text."""
    from gguf import TokenType

    tokens = contents.metadata.get("tokenizer.ggml.tokens", [])
    types = contents.metadata.get("tokenizer.ggml.token_type", [])
    control = [
        token for token, kind in zip(tokens, types, strict=False) if kind == TokenType.CONTROL
    ]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in control])
    for token in control:
        ids = tokenizer.encode(token, add_special_tokens=False).ids
        if ids != [tokenizer.token_to_id(token)]:
            raise ModelError(f"the tokenizer splits the special token {token!r} into {ids}")
