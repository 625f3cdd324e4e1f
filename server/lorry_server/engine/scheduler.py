"""`Scheduler`: which tokens of which sequences the next step computes.

There is one rule. A sequence has tokens, some of which are computed; a step computes more of them
within a token budget; when none is left to compute, it samples one. Prefill, chunked prefill,
decode, a prefix hit and a return after preemption differ only in the two counts. What is left of
the budget may go to drafts, which take nothing that anyone else wants. Whose turn it is to be
admitted is for `engine.turns` to say.

Nothing here depends on a clock, a set's order or a hash seed, so the same arrivals give the same
steps.
"""

from __future__ import annotations

import bisect
from array import array
from collections import Counter
from dataclasses import dataclass

import msgspec

from lorry_server.engine.adapter_room import AdapterRoom
from lorry_server.engine.block_pool import BlockPool
from lorry_server.engine.drafting import MAX_SEQUENCES_WITH_DRAFTS, Drafter
from lorry_server.engine.fairness import Fifo, SchedulingPolicy
from lorry_server.engine.sequence import Flow, Sequence, SequenceStatus
from lorry_server.engine.turns import Turns
from lorry_server.engine.waiting_lines import WaitingLines
from lorry_server.lora.residency import Residency


class ScheduledSequence(msgspec.Struct, frozen=True):
    """`num_tokens` tokens of `sequence`, from its first uncomputed one, are in the step.

    `draft` is a guess of the tokens behind them; they are in the step as well, but not (yet) in
    the sequence. A struct because a step makes one for each sequence, and fast.
    """

    sequence: Sequence
    num_tokens: int
    draft: tuple[int, ...] = ()


@dataclass(slots=True)
class SchedulerCounters:
    """Counts since the start; they only grow."""

    num_preemptions: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0  # of the drafts': steps that they spared


class Scheduler:
    """Admission, token budget and preemption over the blocks of one pool.

    `max_num_batched_tokens` bounds a step, `max_num_seqs` the sequences that run together. The
    pool must hold one sequence of the greatest length, so that the oldest can always go on. A
    sequence that runs has its adapter pinned in `residency`; one that waits holds nothing.
    Without a `policy` flows are served in order of arrival; without a `drafter` no sequence gets a
    draft.
    """

    def __init__(
        self,
        pool: BlockPool,
        residency: Residency,
        *,
        block_size: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        prefix_caching: bool = True,
        policy: SchedulingPolicy | None = None,
        drafter: Drafter | None = None,
    ) -> None:
        assert max_num_batched_tokens >= max_num_seqs
        self.pool = pool
        self.residency = residency
        self.counters = SchedulerCounters()
        self.num_served_tokens = 0  # that steps computed: the clock of everything here
        self._block_size = block_size
        self._max_num_seqs = max_num_seqs
        self._max_num_batched_tokens = max_num_batched_tokens
        self._prefix_caching = prefix_caching
        self._drafter = drafter
        self._policy = policy if policy is not None else Fifo()
        self._turns = Turns(self._policy, AdapterRoom(residency), full_step=max_num_batched_tokens)
        self._num_accepted: Counter[Flow] = Counter()  # sequences that wait or run
        self.running: list[Sequence] = []  # by order of arrival

    @property
    def waiting(self) -> WaitingLines:
        return self._turns.waiting

    def add(self, sequence: Sequence) -> None:
        """Put a new sequence at the end of its line."""
        self._num_accepted[sequence.flow] += 1
        self._turns.line_up(sequence, self.num_served_tokens)

    def set_weight(self, digest: str | None, weight: float) -> None:
        """Let an adapter, or the base model, have `weight` times the share of one with weight 1.

        It counts for what is computed from now on, and only where the policy knows shares.
        """
        self._policy.set_weight(digest, weight)

    def finish(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and give back what it holds."""
        if sequence.status is SequenceStatus.WAITING:
            self._turns.withdraw(sequence)
        elif sequence.status is SequenceStatus.RUNNING:
            self.running.remove(sequence)
            self._release(sequence)
        sequence.status = SequenceStatus.FINISHED
        flow = sequence.flow
        self._num_accepted[flow] -= 1
        if self._num_accepted[flow] == 0:
            del self._num_accepted[flow]
            self._policy.forget(flow)
        if self._drafter is not None:
            self._drafter.forget(sequence)

    def schedule(self) -> list[ScheduledSequence]:
        """Choose the next step and give its sequences the blocks that it will write."""
        scheduled: list[ScheduledSequence] = []
        for sequence in reversed(self._turns.to_preempt(self.running, self.num_served_tokens)):
            self._preempt(sequence)
        budget = self._continue_running(scheduled, self._max_num_batched_tokens)
        if self.waiting and budget > 0 and len(self.running) < self._max_num_seqs:
            budget = self._admit_waiting(scheduled, budget)
        self.num_served_tokens += self._max_num_batched_tokens - budget
        if self._drafter is not None and len(scheduled) <= MAX_SEQUENCES_WITH_DRAFTS:
            self._add_drafts(scheduled, budget, self._drafter)
        return scheduled

    def mark_computed(self, scheduled: ScheduledSequence, *, num_accepted: int = 0) -> None:
        """The step is done: count its tokens and remember the blocks that it filled.

        `num_accepted` is how many tokens of the draft the sequence has now and more behind them;
        those that it did not accept leave nothing but memory that will be written again.
        """
        sequence = scheduled.sequence
        old_num_full = sequence.num_computed_tokens // self._block_size
        sequence.num_computed_tokens += scheduled.num_tokens + num_accepted
        num_full = sequence.num_computed_tokens // self._block_size
        if self._prefix_caching and num_full > old_num_full:
            hashes = sequence.block_hashes(num_full)
            for index in range(old_num_full, num_full):
                self.pool.remember(sequence.block_table[index], hashes[index])
        if scheduled.draft:
            self._settle_draft(scheduled, num_accepted)

    def _continue_running(self, scheduled: list[ScheduledSequence], budget: int) -> int:
        index = 0
        while index < len(self.running):
            sequence = self.running[index]
            # Everyone behind keeps a token, so that a long prefill never stalls a decode.
            num_behind = len(self.running) - index - 1
            num_tokens = min(sequence.num_uncomputed_tokens, budget - num_behind)
            capacity = len(sequence.block_table) * self._block_size
            if sequence.num_computed_tokens + num_tokens > capacity and not self._make_room(
                sequence, num_tokens
            ):
                break  # it was the youngest and has been preempted itself
            scheduled.append(ScheduledSequence(sequence, num_tokens))
            budget -= num_tokens
            index += 1
        return budget

    def _make_room(self, sequence: Sequence, num_tokens: int) -> bool:
        """Grow the block table, preempting the youngest sequences while blocks are short."""
        end = sequence.num_computed_tokens + num_tokens
        num_missing = sequence.num_blocks_for(end) - len(sequence.block_table)
        while num_missing > self.pool.num_available:
            youngest = self.running[-1]
            self._preempt(youngest)
            if youngest is sequence:
                return False
        if num_missing > 0:
            sequence.block_table.extend(self.pool.allocate(num_missing))
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Send a running sequence back to the front of its line, to be recomputed."""
        self.running.remove(sequence)
        self._release(sequence)
        sequence.num_reached_tokens = max(sequence.num_reached_tokens, sequence.num_computed_tokens)
        sequence.num_computed_tokens = 0
        sequence.num_preemptions += 1
        sequence.status = SequenceStatus.WAITING
        self._turns.line_up(sequence, self.num_served_tokens)
        self.counters.num_preemptions += 1

    def _admit_waiting(self, scheduled: list[ScheduledSequence], budget: int) -> int:
        now = self.num_served_tokens
        self._turns.begin_round(self.running, now)
        while budget > 0 and len(self.running) < self._max_num_seqs:
            sequence = self._turns.next_head()
            if sequence is None:
                break
            cached_blocks = self._cached_prefix(sequence)
            num_cached_tokens = len(cached_blocks) * self._block_size
            num_tokens = min(sequence.num_tokens - num_cached_tokens, budget)
            end = num_cached_tokens + num_tokens
            num_missing = sequence.num_blocks_for(end) - len(cached_blocks)
            # Each running sequence may want one more block next step; leave them that, or
            # admission would be followed at once by preemption.
            num_spare = self.pool.num_available_without(cached_blocks) - num_missing
            if num_spare < len(self.running) or not self._turns.room.enter(sequence.flow, now):
                self._turns.pass_over(sequence, now)
                continue
            self.pool.share(cached_blocks)
            sequence.block_table = array("i", cached_blocks + self.pool.allocate(num_missing))
            sequence.num_computed_tokens = num_cached_tokens
            self._count_prefix(sequence, num_cached_tokens)
            self._turns.admit(sequence, num_tokens=num_tokens, now=now)
            sequence.status = SequenceStatus.RUNNING
            bisect.insort(self.running, sequence, key=lambda running: running.order)
            scheduled.append(ScheduledSequence(sequence, num_tokens))
            budget -= num_tokens
        return budget

    def _add_drafts(
        self, scheduled: list[ScheduledSequence], budget: int, drafter: Drafter
    ) -> None:
        """Give the sequences that decode a draft each, of what budget and pool have left."""
        for index, item in enumerate(scheduled):
            sequence = item.sequence
            if sequence.num_uncomputed_tokens != 1:
                continue
            end = sequence.num_tokens
            num_blocks = len(sequence.block_table) + self.pool.num_available
            max_tokens = min(budget, num_blocks * self._block_size - end)
            draft = drafter.draft(sequence, max_tokens=max_tokens)
            if not draft:
                continue
            assert len(draft) <= max_tokens
            num_missing = sequence.num_blocks_for(end + len(draft)) - len(sequence.block_table)
            if num_missing > 0:
                sequence.block_table.extend(self.pool.allocate(num_missing))
            scheduled[index] = ScheduledSequence(sequence, item.num_tokens, draft)
            budget -= len(draft)

    def _settle_draft(self, scheduled: ScheduledSequence, num_accepted: int) -> None:
        assert self._drafter is not None
        sequence, num_drafted = scheduled.sequence, len(scheduled.draft)
        self.counters.num_drafts += 1
        self.counters.num_draft_tokens += num_drafted
        self.counters.num_accepted_tokens += num_accepted
        self._drafter.settle(sequence, num_drafted=num_drafted, num_accepted=num_accepted)
        # Blocks that only refused tokens had reached go back, so that a draft never makes the
        # next step preempt anyone.
        num_kept = sequence.num_blocks_for(sequence.num_computed_tokens)
        self.pool.release(sequence.block_table[num_kept:])
        del sequence.block_table[num_kept:]

    def _cached_prefix(self, sequence: Sequence) -> list[int]:
        # Logprobs of prompt tokens need every prompt position computed.
        if not self._prefix_caching or sequence.request.sampling.num_prompt_logprobs is not None:
            return []
        # The last token is always computed: its logits choose the next one.
        num_full = (sequence.num_tokens - 1) // self._block_size
        return self.pool.match(sequence.block_hashes(num_full))

    def _count_prefix(self, sequence: Sequence, num_cached_tokens: int) -> None:
        if sequence.num_preemptions == 0:
            sequence.num_cached_tokens = num_cached_tokens
            self.counters.prefix_cache_queries += sequence.num_tokens
            self.counters.prefix_cache_hits += num_cached_tokens

    def _release(self, sequence: Sequence) -> None:
        self.pool.release(sequence.block_table)
        sequence.block_table = array("i")
        self._turns.leave(sequence)

    def check_integrity(self) -> None:
        """Assert the invariants that hold between any two steps."""
        self.pool.check_integrity()
        self.residency.check_integrity()
        num_with_adapter = sum(s.request.adapter is not None for s in self.running)
        assert self.residency.num_pins == num_with_adapter, "pins are of running sequences"
        tables = [block for sequence in self.running for block in sequence.block_table]
        assert self.pool.num_used == len(set(tables)), "a block is used by no running sequence"
        assert all(not sequence.block_table for sequence in self.waiting)
        self._turns.check_integrity(self.running)
        orders = [sequence.order for sequence in self.running]
        assert orders == sorted(orders), "the running are mixed up"
        flows = Counter(sequence.flow for sequence in (*self.waiting, *self.running))
        assert flows == self._num_accepted
        for sequence in self.running:
            assert sequence.num_computed_tokens <= sequence.num_tokens
            num_blocks = sequence.num_blocks_for(sequence.num_computed_tokens)
            assert len(sequence.block_table) == num_blocks, "blocks that hold nothing computed"
        if self._drafter is not None:
            accepted = {sequence.order for sequence in (*self.waiting, *self.running)}
            assert self._drafter.known_orders <= accepted, "the drafter knows a finished sequence"
