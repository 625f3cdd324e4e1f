"""`Sequence`: the token state of one request while the engine works on it."""

from __future__ import annotations

import enum
from array import array
from typing import TypeAlias

from lorry_server.engine.outputs import FinishReason, SequenceTimings, TokenLogprobs
from lorry_server.engine.prefix_hash import block_hash, root_hash
from lorry_server.engine.request import Request
from lorry_server.engine.sampling_columns import SamplingColumns

# Whose turn it is to be served: an adapter, by its digest, or the base model, by None.
Flow: TypeAlias = str | None


class SequenceStatus(enum.Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


class Sequence:
    """Tokens, how many of them are computed, and the blocks that hold their keys and values.

    Owned by the engine's thread. `order` is the place in the line of arrivals and never changes, not
    even by preemption; within a flow it decides who is served first. `token_ids` and `block_table`
    are arrays of 32-bit integers, so that a step's plan takes them as they lie in memory.
    """

    def __init__(self, request: Request, *, order: int, block_size: int) -> None:
        self.request = request
        self.order = order
        self.flow: Flow = request.adapter
        self.status = SequenceStatus.WAITING
        self.token_ids = array("i", request.prompt_token_ids)
        self.num_prompt_tokens = len(self.token_ids)
        self.num_computed_tokens = 0
        # How many tokens are paid for (see `engine.fairness`), and how many had been computed when
        # the sequence was last preempted: what it computes again is neither paid nor progress.
        self.num_paid_tokens = 0
        self.num_reached_tokens = 0
        self.waiting_since = 0  # tokens that had been served when it began to wait
        self.block_table = array("i")
        self.finish_reason: FinishReason | None = None
        self.prompt_logprobs: list[TokenLogprobs] = []
        # The clock of the sequence, in seconds of time.perf_counter().
        self.first_step_s: float | None = None
        self.first_token_s: float | None = None
        self.last_token_s: float | None = None
        self.num_cached_tokens = 0
        self.num_steps = 0
        self.first_step: int | None = None  # indices of the step log
        self.last_step: int | None = None
        self.num_preemptions = 0
        self.max_batch = 0
        self._block_size = block_size
        self._block_hashes: list[bytes] = []
        self._root_hash = root_hash(request.adapter)
        self.sampling_columns = SamplingColumns.of(
            request.sampling, prompt_len=self.num_prompt_tokens
        )

    def __repr__(self) -> str:
        return (
            f"Sequence({self.request.request_id}, {self.status.value}, "
            f"{self.num_computed_tokens}/{self.num_tokens} computed)"
        )

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_uncomputed_tokens(self) -> int:
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def num_completion_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    def num_blocks_for(self, num_tokens: int) -> int:
        """How many blocks hold the sequence's first `num_tokens` tokens."""
        return -(-num_tokens // self._block_size)

    def block_hashes(self, num_blocks: int) -> list[bytes]:
        """The names of the sequence's first `num_blocks` full blocks, each computed once."""
        assert num_blocks * self._block_size <= len(self.token_ids)
        while len(self._block_hashes) < num_blocks:
            start = len(self._block_hashes) * self._block_size
            parent = self._block_hashes[-1] if self._block_hashes else self._root_hash
            self._block_hashes.append(
                block_hash(parent, self.token_ids[start : start + self._block_size])
            )
        return self._block_hashes[:num_blocks]

    def timings(self) -> SequenceTimings:
        """Durations so far; a sequence that never ran has only waited."""
        arrival_s = self.request.arrival_s
        first_step_s = self.first_step_s if self.first_step_s is not None else arrival_s
        first_token_s = self.first_token_s if self.first_token_s is not None else first_step_s
        last_token_s = self.last_token_s if self.last_token_s is not None else first_token_s
        return SequenceTimings(
            queue_ms=1e3 * (first_step_s - arrival_s),
            prefill_ms=1e3 * (first_token_s - first_step_s),
            decode_ms=1e3 * (last_token_s - first_token_s),
            cached_tokens=self.num_cached_tokens,
            steps=self.num_steps,
            max_batch=self.max_batch,
            preemptions=self.num_preemptions,
            first_step=self.first_step,
            last_step=self.last_step,
        )
