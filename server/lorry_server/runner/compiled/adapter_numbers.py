"""`AdapterNumbers`: the compiled code's names for adapters, small integers from 0."""

from __future__ import annotations

import numpy as np

from lorry_server.engine.plan import AdapterSegments, Int32
from lorry_server.runner.compiled.step_block import NO_ADAPTER


class AdapterNumbers:
    """Numbers adapters by their first row in the pool."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, start: int) -> int:
        return self._numbers[start]

    def add(self, start: int) -> None:
        """Number an adapter, if it has no number yet."""
        self._numbers.setdefault(start, len(self._numbers))

    def of_tokens(self, segments: AdapterSegments, num_tokens: int) -> Int32 | None:
        """The adapter number of each token, -1 for none; None if no token has one."""
        if len(segments.rows_G) == 0:
            return None
        numbers_T = np.full(num_tokens, NO_ADAPTER, np.int32)
        numbers_G = [self._numbers[start] for start in segments.rows_G.tolist()]
        lengths_G = np.diff(segments.starts_G1)
        numbers_T[segments.tokens_P] = np.repeat(np.array(numbers_G, np.int32), lengths_G)
        return numbers_T
