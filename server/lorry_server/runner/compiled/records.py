"""`Tape`: records under construction, and the array that the compiled code walks."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.memory import Arena, address

Field = int | float | npt.NDArray[np.generic] | None


class Tape:
    """Records in the order in which they run. Arrays that they name are kept alive by it."""

    def __init__(self) -> None:
        self._records: list[tuple[str, npt.NDArray[np.int64]]] = []
        self._kept: list[npt.NDArray[np.generic]] = []

    def add(self, name: str, op: int, fields: Mapping[int, Field], *, rows: int = t.TOKENS) -> None:
        """Append an operation; `name` is what a profile calls it. Floats are stored as float32."""
        record = np.zeros(t.WORDS, np.int64)
        record[t.OP // t.WORD_BYTES] = op
        record[t.ROWS // t.WORD_BYTES] = rows
        for offset, value in fields.items():
            record[offset // t.WORD_BYTES] = self._word(value)
        self._records.append((name, record))

    def names(self) -> list[str]:
        return [name for name, _ in self._records]

    def finish(self, arena: Arena) -> npt.NDArray[np.int64]:
        """All records, one after the other."""
        words = arena.words(t.WORDS * len(self._records))
        for index, (_, record) in enumerate(self._records):
            words[index * t.WORDS : (index + 1) * t.WORDS] = record
        return words

    def _word(self, value: Field) -> int:
        if value is None:
            return 0
        if isinstance(value, np.ndarray):
            self._kept.append(value)
            return address(value)
        if isinstance(value, float):
            return int(np.float32(value).view(np.uint32))
        return value
