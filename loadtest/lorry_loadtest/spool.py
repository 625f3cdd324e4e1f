"""The records of one process, on disk as they come: its memory does not grow with its run."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from lorry_loadtest.records import RequestRecord

CHUNK_BYTES = 1 << 20


class Spool:
    """A file of JSON lines. `path` is the owner's to choose and to remove."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_records = 0
        self._encoder = msgspec.json.Encoder()
        self._file = path.open("wb")

    def append(self, record: RequestRecord) -> None:
        self._file.write(self._encoder.encode(record) + b"\n")
        self.num_records += 1

    def close(self) -> None:
        self._file.close()

    def chunks(self) -> Iterator[bytes]:
        """The closed file in pieces of at most a mebibyte, for where it cannot be read."""
        with self.path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk


def merge_spools(paths: Iterable[Path]) -> list[RequestRecord]:
    """All records, in the order of their planned times."""
    decoder = msgspec.json.Decoder(RequestRecord)

    def records(path: Path) -> list[RequestRecord]:
        with path.open("rb") as file:
            return sorted(map(decoder.decode, file), key=_by_time)

    return list(heapq.merge(*map(records, paths), key=_by_time))


def _by_time(record: RequestRecord) -> tuple[int, int]:
    return record.t_sched_ns, record.index
