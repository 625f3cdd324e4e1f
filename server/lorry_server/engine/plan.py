"""`StepPlan`: the only thing that crosses from the scheduler to a runner, and `StepResult` back.

Both are plain numpy, so the same plan serves the torch reference, compiled CPU code, CUDA graphs
and a runner in another process. Nobody writes to a plan once it is made. A runner keeps no state
about requests but the KV cache: all it needs for a step is in the plan, and in the adapters that are
attached to the slots that the plan names.

Shape legend: T tokens of the step, S sequences of the step, M blocks of the longest sequence,
G adapter segments, P tokens that use an adapter, N logits rows, K most alternatives asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Float32 = npt.NDArray[np.float32]

SAMPLE = -1  # in `LogitsPlan.targets_N`: choose a token; else give this token's logprob

OK = 0
NON_FINITE = 1  # in `StepResult.status_N`: the row's logits were NaN or infinite


@dataclass(frozen=True, slots=True)
class AdapterSegments:
    """Runs of the step's tokens that use the same adapter; base-only tokens are in none.

    `tokens_P` lists token indices sorted by adapter, stable; segment g is
    `tokens_P[starts_G1[g] : starts_G1[g + 1]]` and uses the adapter that is attached in slot
    `slots_G[g]`.
    """

    tokens_P: Int32
    starts_G1: Int32
    slots_G: Int32


@dataclass(frozen=True, slots=True)
class LogitsPlan:
    """The rows of the step whose logits are wanted, and what is done with each.

    A row with target SAMPLE yields a new token for its sequence. A sequence has several such rows
    when its last tokens are a draft: a guess of what the rows before them will yield, computed as
    if it had been right. Each of these rows is sampled as if its sequence ended there (position,
    history with the draft up to the row, bias), and the engine keeps the tokens of the first ones,
    for as long as the guess was right. Any other target is a prompt token whose logprob is wanted.
    The rows of one sequence stand together, in its order, and sequences in theirs. Penalties and biases are in compressed rows (`*_starts_N1`)
    and are empty for most. `history_*` is the sequence's token ids, prompt first, given only for
    rows with penalties; `prompt_lens_N` says where the completion begins in it.
    """

    rows_N: Int32  # index into T
    sequences_N: Int32  # index into S
    targets_N: Int32
    positions_N: Int64  # of the token to be chosen: the noise counter
    seeds_N: Int64
    temperature_N: Float32
    top_p_N: Float32
    top_k_N: Int32
    min_p_N: Float32
    typical_p_N: Float32
    presence_penalty_N: Float32
    frequency_penalty_N: Float32
    repetition_penalty_N: Float32
    history_starts_N1: Int32
    history_ids: Int32
    prompt_lens_N: Int32
    bias_starts_N1: Int32
    bias_ids: Int32
    bias_values: Float32  # -inf forbids a token (end of sequence before min_tokens)
    num_logprobs_N: Int32  # -1: none; 0: of the token only; k: and of the k best

    def slice(self, start: int, stop: int) -> LogitsPlan:
        """Rows `start` to `stop` as a plan of their own, for a runner that takes them in parts."""
        stop = min(stop, len(self.rows_N))
        part: dict[str, Any] = {}  # arrays of the fields' own dtypes
        for field in fields(self):
            if field.name.endswith("_N"):
                part[field.name] = getattr(self, field.name)[start:stop]
        for name in ("history", "bias"):
            starts = getattr(self, f"{name}_starts_N1")[start : stop + 1]
            part[f"{name}_starts_N1"] = starts - starts[0]
            part[f"{name}_ids"] = getattr(self, f"{name}_ids")[starts[0] : starts[-1]]
            if name == "bias":
                part["bias_values"] = self.bias_values[starts[0] : starts[-1]]
        return replace(self, **part)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One forward pass over T tokens of S sequences.

    Token t of sequence s stands in the flat arrays between `query_starts_S1[s]` and
    `query_starts_S1[s + 1]`. Its key and value go to `slot_mapping_T[t]`
    (`block * block_size + offset`), and it attends to the first `positions_T[t] + 1` tokens of
    its sequence, which lie in the blocks `block_tables_SM[s]` (unused entries are 0). Tokens of a
    draft are tokens like others; what the cache holds of a wrong one is written again later.
    """

    token_ids_T: Int32
    positions_T: Int32
    slot_mapping_T: Int32
    query_starts_S1: Int32
    context_lens_S: Int32  # tokens in the KV cache once this step is done
    block_tables_SM: Int32
    segments: AdapterSegments
    logits: LogitsPlan

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids_T)

    @property
    def num_sequences(self) -> int:
        return len(self.context_lens_S)


@dataclass(frozen=True, slots=True)
class StepResult:
    """One entry per logits row of the plan, in its order.

    `token_ids_N` is the chosen token, or the target. Logprobs are of the model's own
    distribution: before temperature, penalties, bias and filters.
    """

    token_ids_N: Int32
    logprobs_N: Float32
    top_ids_NK: Int32
    top_logprobs_NK: Float32
    status_N: Int32


def concatenate_results(parts: Sequence[StepResult]) -> StepResult:
    """Join the results of a plan's parts; none at all is the result of a plan without rows."""
    num_top = max((part.top_ids_NK.shape[1] for part in parts), default=0)

    def pad(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        return np.pad(array, ((0, 0), (0, num_top - array.shape[1])))

    return StepResult(
        token_ids_N=np.concatenate([np.zeros(0, np.int32), *(p.token_ids_N for p in parts)]),
        logprobs_N=np.concatenate([np.zeros(0, np.float32), *(p.logprobs_N for p in parts)]),
        top_ids_NK=np.concatenate(
            [np.zeros((0, num_top), np.int32), *(pad(p.top_ids_NK) for p in parts)]
        ),
        top_logprobs_NK=np.concatenate(
            [np.zeros((0, num_top), np.float32), *(pad(p.top_logprobs_NK) for p in parts)]
        ),
        status_N=np.concatenate([np.zeros(0, np.int32), *(p.status_N for p in parts)]),
    )
