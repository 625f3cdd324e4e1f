"""The journal of a batch: one line of JSON per finished item, so that a rerun need not repeat it.

The first line says what the file is. Each other line is written at once by a single `write` to a
file that only grows, when its item has finished: a process that is killed loses at most the line
that it was writing, and that torn line is cut off at the next start. The disk is waited for
(`fsync`) once, at the end of the run, so a machine that loses power may lose the last lines too.
What was lost is generated again.

A line is found again by its key: a hash of the item's position, its prompt or messages, and every
option that the answer depends on. A changed input has other keys and is generated anew; limits of
time, tags and request ids may change.
"""

from __future__ import annotations

import hashlib
import io
import operator
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from lorry.batch.generation_json import decode_generation, encode_generation
from lorry.batch.request import Request
from lorry.errors import ClientError, ConfigError
from lorry.generation import Generation

if sys.platform != "win32":
    import fcntl

_HEADER = b'{"lorry_journal":1}\n'
_NOT_OF_THE_ANSWER = frozenset({"deadline", "timeout", "token_times", "request_id", "tag"})


class _Finished(msgspec.Struct, frozen=True):
    key: str
    index: int
    result: msgspec.Raw


class _Failed(msgspec.Struct, frozen=True):
    key: str
    index: int
    error: str
    message: str


class _Line(msgspec.Struct, frozen=True):
    """Either of them, as it is read; `result` is empty for a failure."""

    key: str
    index: int
    result: msgspec.Raw = msgspec.Raw()


def item_key(index: int, request: Request, options: Mapping[str, Any]) -> str:
    """The hash by which an item is known; `options` are its own and the shared ones."""
    content: Any = request.messages if request.prompt is None else request.prompt
    if request.prompt is not None and not isinstance(request.prompt, str):
        content = [operator.index(token_id) for token_id in request.prompt]
    parameters = {k: v for k, v in options.items() if k not in _NOT_OF_THE_ANSWER}
    route = "chat" if request.prompt is None else "completion"
    said = msgspec.json.encode([index, route, content, parameters], order="deterministic")
    return hashlib.blake2b(said, digest_size=16).hexdigest()


class Journal:
    """An open journal; one run has it at a time. Of what is in it only positions are in memory."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError for a file that is no journal, is damaged, or is in use."""
        self._path = path
        self._file = open(path, "a+b", buffering=0)  # noqa: SIM115  # closed by `close`
        self._places: dict[str, tuple[int, int]] = {}  # offset and length of a success's line
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise

    def find(self, key: str) -> Generation | None:
        """The generation that an earlier run finished. Its durations hold, its stamps are of the
        clock of that run."""
        place = self._places.get(key)
        if place is None:
            return None
        self._file.seek(place[0])
        line = msgspec.json.decode(self._file.read(place[1]), type=_Line)
        return decode_generation(line.result)

    def add(self, key: str, index: int, result: Generation | ClientError) -> None:
        """Write down what became of an item."""
        if isinstance(result, ClientError):
            line: object = _Failed(key, index, type(result).__name__, str(result))
        else:
            line = _Finished(key, index, msgspec.Raw(encode_generation(result)))
        self._file.write(msgspec.json.encode(line) + b"\n")

    def close(self) -> None:
        """Wait for the disk and let go of the file."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    def _lock(self) -> None:
        if sys.platform != "win32":
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(f"journal {self._path} is in use by another run") from None

    def _read(self) -> None:
        self._file.seek(0)
        reader = io.BufferedReader(_Unclosed(self._file))
        header = reader.readline()
        if header != _HEADER:
            if not _HEADER.startswith(header):
                raise ConfigError(
                    f"{self._path} is not a journal; give the name of a file that does not exist"
                )
            self._file.truncate(0)  # new, or torn when it was
            self._file.write(_HEADER)
            return
        offset = len(header)
        for number, text in enumerate(reader, start=2):
            try:
                line = msgspec.json.decode(text, type=_Line)
            except msgspec.DecodeError as error:
                if not text.endswith(b"\n"):
                    self._file.truncate(offset)
                    return
                raise ConfigError(f"{self._path}, line {number} is damaged: {error}") from None
            if not text.endswith(b"\n"):
                self._file.write(b"\n")
            if bytes(line.result):
                self._places[line.key] = (offset, len(text))
            offset += len(text)


class _Unclosed(io.RawIOBase):
    """Reads a file that outlives its buffered reader."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        return self._file.readinto(buffer)
