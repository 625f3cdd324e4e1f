"""`FakeRunner`: a runner without a model, whose tokens follow from what it is shown.

It keeps a KV cache of its own, of token ids: each step it stores the step's tokens in their slots
and then reads every sequence back through its block table. A scheduler that hands out a block
twice, forgets a token or points a table at the wrong block is found out by the next token, which
is a hash of the whole sequence as the cache has it and of the adapter that computed each token.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from lorry_server.engine.plan import NON_FINITE, OK, SAMPLE, Int32, StepPlan, StepResult
from tests.support.fake_adapters import FakeAdapters

NO_ADAPTER = -1


def next_token(token_ids: list[int], adapters: list[int], *, vocab_size: int) -> int:
    """What `FakeRunner` generates after `token_ids`, token i computed under `adapters[i]`."""
    content = np.array([*token_ids, *adapters], np.int32).tobytes()
    return zlib.crc32(content) % vocab_size


class FakeRunner:
    """Deterministic next tokens, and hooks to fail.

    `fail_at` raises on that call (counted from 1); `corrupt` says which token id, when it is in
    a sequence, makes the sequence's logits not finite. `plans` keeps what was run. A step that uses
    a slot where nothing is attached fails.
    """

    def __init__(
        self,
        *,
        num_blocks: int,
        block_size: int,
        vocab_size: int = 1000,
        choose: Callable[[list[int], list[int]], int] | None = None,
        fail_at: frozenset[int] = frozenset(),
        corrupt: int | None = None,
    ) -> None:
        self.adapters = FakeAdapters()
        self.plans: list[StepPlan] = []
        self.before_step: Callable[[int], None] = lambda call: None
        self._block_size = block_size
        self._tokens = np.full(num_blocks * block_size, -1, np.int32)
        self._adapters = np.full(num_blocks * block_size, -2, np.int32)
        self._fail_at = fail_at
        self._corrupt = corrupt
        self._choose = choose or (
            lambda tokens, adapters: next_token(tokens, adapters, vocab_size=vocab_size)
        )

    def run(self, plan: StepPlan) -> StepResult:
        self.plans.append(plan)
        self.before_step(len(self.plans))
        if len(self.plans) in self._fail_at:
            raise RuntimeError("the device has failed")
        self._write(plan)
        logits = plan.logits
        num_rows = len(logits.rows_N)
        num_top = max(0, int(logits.num_logprobs_N.max(initial=-1)))
        token_ids_N = logits.targets_N.copy()
        status_N = np.full(num_rows, OK, np.int32)
        for row in range(num_rows):
            position = int(plan.positions_T[logits.rows_N[row]])
            tokens, adapters = self._read(plan, int(logits.sequences_N[row]), position + 1)
            if self._corrupt in tokens:
                status_N[row] = NON_FINITE
            elif logits.targets_N[row] == SAMPLE:
                token_ids_N[row] = self._choose(tokens, adapters)
        return StepResult(
            token_ids_N=token_ids_N,
            logprobs_N=-np.arange(num_rows, dtype=np.float32),
            top_ids_NK=np.tile(np.arange(num_top, dtype=np.int32), (num_rows, 1)),
            top_logprobs_NK=np.zeros((num_rows, num_top), np.float32),
            status_N=status_N,
        )

    def _write(self, plan: StepPlan) -> None:
        self._tokens[plan.slot_mapping_T] = plan.token_ids_T
        adapters_T = np.full(plan.num_tokens, NO_ADAPTER, np.int32)
        segments = plan.segments
        for index, slot in enumerate(segments.slots_G.tolist()):
            tokens = segments.tokens_P[segments.starts_G1[index] : segments.starts_G1[index + 1]]
            adapters_T[tokens] = self.adapters.number(slot)
        self._adapters[plan.slot_mapping_T] = adapters_T

    def _read(self, plan: StepPlan, sequence: int, length: int) -> tuple[list[int], list[int]]:
        positions: Int32 = np.arange(length, dtype=np.int32)
        blocks = plan.block_tables_SM[sequence][positions // self._block_size]
        slots = blocks * self._block_size + positions % self._block_size
        return self._tokens[slots].tolist(), self._adapters[slots].tolist()
