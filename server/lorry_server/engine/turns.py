"""`Turns`: which waiting sequence is looked at next, and which adapter has to make room for another.

A policy ranks the flows that wait (`engine.fairness`). A head that finds no room, for its blocks or
for its adapter, lets other flows go past, but not for ever: a flow that was passed over while
`PATIENCE_STEPS` full steps of tokens were served has a claim to the next room (`engine.passed_over`).

- A claim to blocks: nobody else is admitted until it is met, so blocks come free as others end.
- A claim to room for an adapter: no other adapter gets in, and of those that are in, the one that
  has had the most service takes on nobody. When that alone has not helped for `DRAIN_STEPS` full
  steps of tokens, its sequences are preempted. An adapter that has just got in is left alone for
  `TENURE_STEPS`, and each of its sequences until it has caught up and computed `MIN_TURN_TOKENS`.

So whoever has a claim gets its room after a bounded number of tokens, claims are met in order, and
every turn that ends by force has brought each of its sequences further: nobody starves, and no two
adapters take each other's room without end.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence as Sequences

from lorry_server.engine.adapter_room import AdapterRoom
from lorry_server.engine.fairness import Rank, SchedulingPolicy
from lorry_server.engine.passed_over import Claim, PassedOver
from lorry_server.engine.sequence import Sequence
from lorry_server.engine.waiting_lines import WaitingLines

# Bounds on waiting for room, in full steps' worth of tokens. Shorter ones let a first token come
# sooner where adapters compete for room, longer ones waste less on computing again.
PATIENCE_STEPS = 0.5
DRAIN_STEPS = 0.5
TENURE_STEPS = 4

# New tokens that a preemption for an adapter's sake leaves a sequence with at least.
MIN_TURN_TOKENS = 16

# Heads that a step tries in vain, for blocks and for adapters, before it tries no more of them.
MAX_FAILED_TRIES = 8

# In front of all that a policy ranks.
_CLAIMANT, _ELDEST = -2.0, -1.0


class Turns:
    """The order of admission, over the lines of those that wait and the room for their adapters.

    `full_step` is the number of tokens that a step computes at most. Whoever uses this tells of
    every sequence when it begins to wait (`line_up`), stops waiting otherwise than by admission
    (`withdraw`), and no longer runs (`leave`); `now` is the number of tokens served so far. A round
    is one step's look at those that wait: `begin_round`, then `next_head` until it is None, each
    followed by `admit` or `pass_over`.
    """

    def __init__(self, policy: SchedulingPolicy, room: AdapterRoom, *, full_step: int) -> None:
        self.waiting = WaitingLines()
        self.policy = policy
        self.room = room
        self._passed_over = PassedOver(patience_tokens=int(PATIENCE_STEPS * full_step))
        self._drain_tokens = int(DRAIN_STEPS * full_step)
        self._tenure_tokens = TENURE_STEPS * full_step
        # Of the round.
        self._heads: list[tuple[Rank, Sequence]] = []  # a heap
        self._claim: Claim | None = None
        self._num_without_adapter = 0
        self._num_without_blocks = 0

    def line_up(self, sequence: Sequence, now: int) -> None:
        """A sequence waits from now on."""
        sequence.waiting_since = now
        if self.waiting.push(sequence):
            self.policy.arrive(sequence.flow)

    def withdraw(self, sequence: Sequence) -> None:
        """A sequence that waits will not run."""
        self.waiting.remove(sequence)
        if sequence.flow not in self.waiting:
            self._passed_over.forget(sequence.flow)

    def leave(self, sequence: Sequence) -> None:
        """A sequence runs no longer; it still says how far it was computed."""
        self.policy.charge(sequence)
        self.room.leave(sequence.flow)

    # -- a round

    def begin_round(self, running: Sequences[Sequence], now: int) -> None:
        """Line up the heads for one step."""
        self.policy.settle(running, self.waiting.flows)
        self._claim = self._passed_over.claim(now)
        self._num_without_adapter = self._num_without_blocks = 0
        heads = self._eligible_heads()
        eldest = self.policy.longest_waiting(heads, now)
        self._heads = [(self.policy.rank(head), head) for head in heads]
        for index, head in enumerate(heads):
            if self._claim is not None and head.flow == self._claim.flow:
                self._heads[index] = ((_CLAIMANT, 0, head.order), head)
            elif head is eldest:
                self._heads[index] = ((_ELDEST, 0, head.order), head)
        heapq.heapify(self._heads)

    def next_head(self) -> Sequence | None:
        """The one whose turn it is, until the round is over."""
        return heapq.heappop(self._heads)[1] if self._heads else None

    def admit(self, sequence: Sequence, *, num_tokens: int, now: int) -> None:
        """The head whose turn it is runs from now on, with `num_tokens` tokens in this step.

        It has entered the room and says what the prefix cache gave it.
        """
        flow = sequence.flow
        self.waiting.remove(sequence)
        self._passed_over.forget(flow)
        self.policy.admit(sequence, num_tokens=num_tokens, now=now)
        next_head = self.waiting.head(flow)
        if next_head is not None:
            heapq.heappush(self._heads, (self.policy.rank(next_head), next_head))

    def pass_over(self, sequence: Sequence, now: int) -> None:
        """The head whose turn it is found no room; others may go past it for a while."""
        flow = sequence.flow
        self._passed_over.note(flow, now)
        if flow in self.room.refused:
            self._num_without_adapter += 1
            if self._num_without_adapter == MAX_FAILED_TRIES:
                self._heads = [item for item in self._heads if self.room.is_open_to(item[1].flow)]
                heapq.heapify(self._heads)
            return
        self._num_without_blocks += 1
        has_claim = self._claim is not None and self._claim.flow == flow
        if has_claim or self._num_without_blocks == MAX_FAILED_TRIES:
            self._heads = []

    def _eligible_heads(self) -> list[Sequence]:
        refused = self.room.refused
        if self._claim is None:
            return [head for head in self.waiting.heads() if head.flow not in refused]
        flows = dict.fromkeys((self._claim.flow, None, *self.room.held))
        if self._claim.victim is not None:
            flows.pop(self._claim.victim, None)
        heads = [self.waiting.head(flow) for flow in flows if flow not in refused]
        return [head for head in heads if head is not None]

    # -- room for adapters

    def to_preempt(self, running: Sequences[Sequence], now: int) -> list[Sequence]:
        """The running sequences that have to make room for another adapter now; most often none."""
        claim = self._passed_over.claim(now)
        if claim is None or claim.flow not in self.room.refused:
            return []
        if claim.victim not in self.room.held:
            self.policy.settle(running, self.waiting.flows)
            claim.victim = self._most_served(now)
        if claim.victim is None or now - claim.since < self._drain_tokens:
            return []
        sequences = [sequence for sequence in running if sequence.flow == claim.victim]
        return sequences if all(map(_has_had_turn, sequences)) else []

    def _most_served(self, now: int) -> str | None:
        """Of the adapters that have been in for long enough the one that has had the most.

        Where the policy keeps no accounts, the one that got in first.
        """
        settled = [d for d in self.room.held if self.room.held_for(d, now) >= self._tenure_tokens]
        return max(settled, key=self.policy.service, default=None)

    def check_integrity(self, running: Sequences[Sequence]) -> None:
        """Assert the invariants that hold between any two steps."""
        self.waiting.check_integrity()
        self.room.check_integrity([sequence.flow for sequence in running])
        assert self._passed_over.flows <= self.waiting.flows, "nobody of a flow waits for its claim"
        for sequence in running:
            head = self.waiting.head(sequence.flow)
            assert head is None or sequence.order < head.order, "a flow's line is mixed up"


def _has_had_turn(sequence: Sequence) -> bool:
    num_new = sequence.num_computed_tokens - sequence.num_reached_tokens
    return num_new >= MIN_TURN_TOKENS and sequence.num_uncomputed_tokens <= 1
