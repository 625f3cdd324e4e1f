"""`StepLog`: what the engine's last steps were, for who wants to know why a token came late."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

NUM_KEPT = 8192
# vLLM's bounds of `vllm:iteration_tokens_total`.
TOKEN_BUCKETS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


class StepEntry(NamedTuple):
    """One step. Times are seconds on the engine's monotonic clock.

    `start_s` is when the step began to be scheduled and `end_s` when its results were there.
    `num_running` to `num_used_blocks` are as the step was computed; `num_preemptions` and
    `num_attaches` are what it took to get there. A named tuple because each step makes one.
    """

    step_index: int
    start_s: float
    end_s: float
    num_sequences: int
    num_prefill_tokens: int
    num_decode_tokens: int
    num_adapters: int
    num_running: int
    num_waiting: int
    num_used_blocks: int
    num_preemptions: int
    num_attaches: int


@dataclass(frozen=True, slots=True)
class StepCounts:
    """How many steps computed at most `TOKEN_BUCKETS[i]` tokens, not cumulated; the last, more."""

    counts: tuple[int, ...]
    num_tokens: int


class StepLog:
    """The last `num_kept` steps. The engine's thread appends, any thread reads, nobody waits.

    A reader sees each entry whole, because a list's item is replaced in one moment; that an entry
    has been overwritten meanwhile shows by its index.
    """

    def __init__(self, *, num_kept: int = NUM_KEPT) -> None:
        self._num_kept = num_kept
        self._ring: list[StepEntry | None] = [None] * num_kept
        self._num_steps = 0
        self._counts = [0] * (len(TOKEN_BUCKETS) + 1)
        self._num_tokens = 0

    @property
    def num_steps(self) -> int:
        """How many there were since the start: the index of the next one."""
        return self._num_steps

    def append(self, entry: StepEntry) -> None:
        """Keep a step; its index is `num_steps`."""
        num_tokens = entry[4] + entry[5]
        self._ring[entry[0] % self._num_kept] = entry
        self._num_steps = entry[0] + 1
        self._counts[bisect_left(TOKEN_BUCKETS, num_tokens)] += 1
        self._num_tokens += num_tokens

    def counts(self) -> StepCounts:
        """Return the distribution of the steps' tokens since the start."""
        return StepCounts(tuple(self._counts), self._num_tokens)

    def read(self, *, since: int | None, limit: int) -> list[StepEntry]:
        """Return at most `limit` steps, oldest first: those from index `since` on that are kept.

        Without `since` they are the newest. Steps older than the first that is returned are gone
        if it is not `since` itself.
        """
        end = self._num_steps
        first = max(0, end - self._num_kept)
        start = max(first, end - limit) if since is None else max(first, since)
        entries: list[StepEntry] = []
        for index in range(start, min(end, start + limit)):
            entry = self._ring[index % self._num_kept]
            if entry is None or entry.step_index != index:
                entries.clear()  # overwritten since, and so is what was older
            else:
                entries.append(entry)
        return entries
