"""`SamplingColumns`: the numbers of one request that every logits row of it repeats."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from lorry_server.engine.request import SamplingParams


class SamplingColumns(NamedTuple):
    """In the order and with the meaning of the like-named arrays of `plan.LogitsPlan`.

    A tuple, made once a request: a step transposes those of its rows with one `zip`.
    """

    seed: int
    temperature: float  # 0: greedy
    top_p: float
    top_k: int
    min_p: float
    typical_p: float
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    prompt_len: int

    @classmethod
    def of(cls, params: SamplingParams, *, prompt_len: int) -> SamplingColumns:
        return cls(
            seed=params.seed,
            temperature=0.0 if params.is_greedy else params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            min_p=params.min_p,
            typical_p=params.typical_p,
            presence_penalty=params.presence_penalty,
            frequency_penalty=params.frequency_penalty,
            repetition_penalty=params.repetition_penalty,
            prompt_len=prompt_len,
        )


_DTYPES = {
    "seed": np.int64,
    "top_k": np.int32,
    "prompt_len": np.int32,
}  # the others are float32


@lru_cache(maxsize=8)
def column_arrays(rows: tuple[SamplingColumns, ...]) -> dict[str, Any]:
    """The columns as arrays `[N]`, by the names of `SamplingColumns`; not to be written to.

    While the same sequences decode, step after step has the same rows, and making ten small arrays
    costs more than looking them up: between two steps of a model nothing of Python is in the caches.
    """
    columns = zip(*rows, strict=True) if rows else [()] * len(SamplingColumns._fields)
    arrays = {}
    for name, column in zip(SamplingColumns._fields, columns, strict=True):
        arrays[name] = np.array(column, _DTYPES.get(name, np.float32))
    return arrays
