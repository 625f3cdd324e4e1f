"""`LogitsRows`: a `LogitsPlan` where the compiled code reads it, and the results it leaves.

Shape legend: N logits rows, K most alternatives asked for.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lorry_server.engine.plan import Float32, Int32, LogitsPlan, StepResult
from lorry_server.kernels.cpu import logits_block as b
from lorry_server.kernels.cpu import tape as t
from lorry_server.kernels.cpu.memory import Arena, address

_INTS = {
    "targets_N": b.TARGETS,
    "top_k_N": b.TOP_K,
    "prompt_lens_N": b.PROMPT_LENS,
    "num_logprobs_N": b.NUM_LOGPROBS,
    "history_starts_N1": b.HISTORY_STARTS,
    "bias_starts_N1": b.BIAS_STARTS,
}
_FLOATS = {
    "temperature_N": b.TEMPERATURE,
    "top_p_N": b.TOP_P,
    "min_p_N": b.MIN_P,
    "typical_p_N": b.TYPICAL_P,
    "presence_penalty_N": b.PRESENCE,
    "frequency_penalty_N": b.FREQUENCY,
    "repetition_penalty_N": b.REPETITION,
}
_WORDS = {"positions_N": b.POSITIONS, "seeds_N": b.SEEDS}
_LISTS = {
    "history_ids": b.HISTORY_IDS,
    "bias_ids": b.BIAS_IDS,
    "bias_values": b.BIAS_VALUES,
}


class LogitsRows:
    """Columns of fixed places, which a step fills; lists of any length are read where they are."""

    def __init__(self, arena: Arena, *, max_rows: int) -> None:
        self.block = arena.words(b.BLOCK_WORDS)
        self._columns: list[tuple[str, npt.NDArray[np.generic]]] = []
        for names, make in ((_INTS, arena.ints), (_FLOATS, arena.floats), (_WORDS, arena.words)):
            for name, word in names.items():
                # as floats, ints and words are laid out alike, and starts are one more
                column: npt.NDArray[np.generic] = make(max_rows + 1)
                self._columns.append((name, column))
                self._point(word, column)
        self._token_ids_N = arena.ints(max_rows)
        self._status_N = arena.ints(max_rows)
        self._logprobs_N = arena.floats(max_rows)
        self._point(b.OUT_TOKEN_IDS, self._token_ids_N)
        self._point(b.OUT_STATUS, self._status_N)
        self._point(b.OUT_LOGPROBS, self._logprobs_N)
        self._filled: dict[str, npt.NDArray[np.generic]] = {}
        self._plan: LogitsPlan | None = None
        self._top_ids_NK: Int32 = np.zeros((0, 0), np.int32)
        self._top_logprobs_NK: Float32 = np.zeros((0, 0), np.float32)

    def fill(self, plan: LogitsPlan) -> None:
        """The rows of a step: at most `max_rows`. The plan is kept, for its lists are read."""
        num_rows = len(plan.rows_N)
        self._plan = plan
        for name, column in self._columns:
            values = getattr(plan, name)
            # nobody writes to a plan, so the same array as last time is there already
            if values is not self._filled.get(name):
                column[: len(values)] = values
                self._filled[name] = values
        for name, word in _LISTS.items():
            values = getattr(plan, name)
            if len(values):
                self._point(word, values)
        num_top = max(0, int(plan.num_logprobs_N.max(initial=-1)))
        self._logprobs_N[:num_rows] = 0.0
        self._top_ids_NK = np.zeros((num_rows, num_top), np.int32)
        self._top_logprobs_NK = np.zeros((num_rows, num_top), np.float32)
        self.block[b.NUM_TOP // t.WORD_BYTES] = num_top
        if num_top:
            self._point(b.OUT_TOP_IDS, self._top_ids_NK)
            self._point(b.OUT_TOP_LOGPROBS, self._top_logprobs_NK)

    def result(self) -> StepResult:
        """What the step has left for the rows of the last `fill`."""
        num_rows = len(self._top_ids_NK)
        return StepResult(
            token_ids_N=self._token_ids_N[:num_rows].copy(),
            logprobs_N=self._logprobs_N[:num_rows].copy(),
            top_ids_NK=self._top_ids_NK,
            top_logprobs_NK=self._top_logprobs_NK,
            status_N=self._status_N[:num_rows].copy(),
        )

    def _point(self, word: int, array: npt.NDArray[np.generic]) -> None:
        self.block[word // t.WORD_BYTES] = address(array)
