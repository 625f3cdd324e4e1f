"""In what order flows are looked at that wait: `Fifo`, and `FairByAdapter` by tokens served.

`FairByAdapter` counts what each flow was served, in virtual token counters (Sheng et al., "Fairness
in Serving Large Language Models", OSDI 2024, arXiv 2401.00588), and looks first at the flow that
has had the least. Nothing here knows a clock: time is counted in tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from lorry_server.engine.sequence import Flow, Sequence

# What a token costs its flow. The paper's figures: an output token needs a pass of its own over
# weights and context, prompt tokens share one. Providers' prices have about the same ratio.
PROMPT_TOKEN_COST = 1.0
OUTPUT_TOKEN_COST = 2.0

# In full steps' worth of tokens: how long somebody waits before age counts, and how often it does.
AGEING_STEPS = 64

# Flows that are gone and had more than their share are remembered until the others have caught up.
# More than these at once would be an attack on memory; then the longest gone are let off.
MAX_DEBTORS = 256

# Of two heads of lines the one with the lesser rank is looked at first; ranks are never equal.
Rank: TypeAlias = tuple[float, int, int]


class SchedulingPolicy(Protocol):
    """What the scheduler tells of flows and asks about their order.

    A flow is accepted while any sequence of it waits or runs. All token counts are of the
    scheduler's own clock, `Scheduler.num_served_tokens`.
    """

    def arrive(self, flow: Flow) -> None:
        """A sequence of `flow` waits, where none of it did."""
        ...

    def settle(self, running: Iterable[Sequence], waiting: Collection[Flow]) -> None:
        """Bring all accounts up to date; called before anything is asked about the order."""
        ...

    def charge(self, sequence: Sequence) -> None:
        """Make a sequence's flow pay for what was computed of it; it is about to leave the batch."""
        ...

    def admit(self, sequence: Sequence, *, num_tokens: int, now: int) -> None:
        """A head runs from now on, with `num_tokens` tokens in the coming step."""
        ...

    def rank(self, head: Sequence) -> Rank: ...

    def longest_waiting(self, heads: Collection[Sequence], now: int) -> Sequence | None:
        """A head that goes before all others for its age, whatever its rank."""
        ...

    def service(self, flow: Flow) -> float:
        """What an accepted flow has had, to compare with others."""
        ...

    def forget(self, flow: Flow) -> None:
        """No sequence of `flow` waits or runs any more."""
        ...

    def set_weight(self, flow: Flow, weight: float) -> None:
        """Let a flow have `weight` times the share of a flow with weight 1."""
        ...


class Fifo:
    """In order of arrival, whatever the flow."""

    def arrive(self, flow: Flow) -> None:
        pass

    def settle(self, running: Iterable[Sequence], waiting: Collection[Flow]) -> None:
        pass

    def charge(self, sequence: Sequence) -> None:
        pass

    def admit(self, sequence: Sequence, *, num_tokens: int, now: int) -> None:
        pass

    def rank(self, head: Sequence) -> Rank:
        return (0.0, 0, head.order)

    def longest_waiting(self, heads: Collection[Sequence], now: int) -> Sequence | None:
        return None  # the first in line is

    def service(self, flow: Flow) -> float:
        return 0.0  # all alike

    def forget(self, flow: Flow) -> None:
        pass

    def set_weight(self, flow: Flow, weight: float) -> None:
        pass


@dataclass(slots=True)
class _Account:
    """Of one accepted flow."""

    service: float  # cost of the tokens that it was served, over its weight
    weight: float
    last_admission: int = 0  # counted over all flows; 0: none since the flow came


class FairByAdapter:
    """The flow that has had the least goes first; among equals, the one admitted longest ago.

    A token is paid for once, when it is first computed: what the prefix cache gave is free, and so
    is what a preemption makes the engine compute again. A flow that begins to wait is lifted to the
    least account of those that wait already, so time without requests saves up no credit. Service
    beyond that stays a debt when the flow goes, until the others have caught up with it.

    Then between two flows that wait all the time, the difference of service over weight is bounded
    by what one flow can have in the batch at once (theorem 4.4 of the paper).

    That bound says nothing where new flows keep arriving, each with the least account. So, once in
    `ageing_tokens`, the one that has waited longest of all goes first if it has waited for as many
    tokens; a queue of n before it therefore takes at most n + 1 such turns.
    """

    def __init__(self, *, ageing_tokens: int) -> None:
        self._ageing_tokens = ageing_tokens
        self._accounts: dict[Flow, _Account] = {}
        self._weights: dict[Flow, float] = {}  # those that are not 1
        self._debts: dict[Flow, float] = {}  # of flows that are gone, the longest gone first
        self._newcomers: dict[Flow, None] = {}  # arrived and not lifted yet, in that order
        self._floor = 0.0  # what nobody who arrives has less than
        self._num_admissions = 0
        self._last_admitted: Flow = None
        self._eldest: Sequence | None = None  # who was last said to go first for its age
        self._last_aged = 0  # when somebody was admitted for age

    @property
    def flows(self) -> Collection[Flow]:
        """The flows with an account, for the invariants."""
        return self._accounts.keys() | self._newcomers.keys()

    @property
    def num_debtors(self) -> int:
        return len(self._debts)

    def arrive(self, flow: Flow) -> None:
        self._newcomers[flow] = None

    def settle(self, running: Iterable[Sequence], waiting: Collection[Flow]) -> None:
        accounts = self._accounts
        for sequence in running:
            first, end = sequence.num_paid_tokens, sequence.num_computed_tokens
            if first < sequence.num_prompt_tokens:
                self._pay(sequence, end)
            elif first < end:  # as `_pay`, for all that decode
                account = accounts[sequence.flow]
                account.service += OUTPUT_TOKEN_COST * (end - first) / account.weight
                sequence.num_paid_tokens = end
        if not self._newcomers:
            return
        services = [accounts[flow].service for flow in waiting if flow not in self._newcomers]
        # Where nobody else waits, the last one who did had waited for as long as its service says.
        least = min(services) if services else self.service(self._last_admitted)
        self._floor = max(self._floor, least)
        for flow in self._newcomers:
            known = accounts.get(flow)
            if known is None:
                debt = self._debts.pop(flow, 0.0)
                accounts[flow] = _Account(max(debt, self._floor), self._weights.get(flow, 1.0))
            else:
                known.service = max(known.service, self._floor)
        self._newcomers.clear()

    def charge(self, sequence: Sequence) -> None:
        self._pay(sequence, sequence.num_computed_tokens)

    def admit(self, sequence: Sequence, *, num_tokens: int, now: int) -> None:
        first = sequence.num_computed_tokens  # what the prefix cache gave
        sequence.num_paid_tokens = max(sequence.num_paid_tokens, first)
        # Paid at once, so that the flow's next in line does not pass for as poor as this one.
        self._pay(sequence, first + num_tokens)
        self._num_admissions += 1
        self._accounts[sequence.flow].last_admission = self._num_admissions
        self._last_admitted = sequence.flow
        if sequence is self._eldest:
            self._last_aged = now

    def rank(self, head: Sequence) -> Rank:
        account = self._accounts[head.flow]
        return (account.service, account.last_admission, head.order)

    def longest_waiting(self, heads: Collection[Sequence], now: int) -> Sequence | None:
        self._eldest = None
        if heads and now - self._last_aged >= self._ageing_tokens:
            oldest = min(heads, key=lambda head: (head.waiting_since, head.order))
            if now - oldest.waiting_since >= self._ageing_tokens:
                self._eldest = oldest
        return self._eldest

    def service(self, flow: Flow) -> float:
        account = self._accounts.get(flow)
        return self._debts.get(flow, 0.0) if account is None else account.service

    def forget(self, flow: Flow) -> None:
        self._newcomers.pop(flow, None)
        account = self._accounts.pop(flow, None)
        if account is None or account.service <= self._floor:
            return  # whoever comes anew begins at the floor anyway
        self._debts[flow] = account.service
        if len(self._debts) > MAX_DEBTORS:
            self._debts = {f: debt for f, debt in self._debts.items() if debt > self._floor}
        if len(self._debts) > MAX_DEBTORS:
            del self._debts[next(iter(self._debts))]

    def set_weight(self, flow: Flow, weight: float) -> None:
        assert weight > 0.0
        if weight == 1.0:
            self._weights.pop(flow, None)
        else:
            self._weights[flow] = weight
        if flow in self._accounts:
            self._accounts[flow].weight = weight

    def _pay(self, sequence: Sequence, end: int) -> None:
        """Charge the tokens from the first unpaid one to `end`, if any are between them."""
        first = sequence.num_paid_tokens
        if end <= first:
            return
        num_outputs = end - max(first, min(end, sequence.num_prompt_tokens))
        num_prompt = end - first - num_outputs
        cost = PROMPT_TOKEN_COST * num_prompt + OUTPUT_TOKEN_COST * num_outputs
        account = self._accounts[sequence.flow]
        account.service += cost / account.weight
        sequence.num_paid_tokens = end


def make_policy(scheduling: str, *, full_step: int) -> SchedulingPolicy:
    """The policy called "fair" or "fifo"; `full_step` is what a step computes at most, in tokens."""
    if scheduling == "fifo":
        return Fifo()
    assert scheduling == "fair"
    return FairByAdapter(ageing_tokens=AGEING_STEPS * full_step)
