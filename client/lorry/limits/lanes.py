"""Who waits for a turn, adapter by adapter, and who is next: no clock and no I/O.

Two orders: `FirstCome`, and `DeficitRoundRobin` after Shreedhar and Varghese, "Efficient Fair
Queuing Using Deficit Round Robin" (SIGCOMM 1995). In both, waiters of one lane keep their order.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Protocol

# the weight of a new cost in the running mean that is the credit of one turn
MEAN_WEIGHT = 1 / 64


class Lane:
    """The calls of one adapter. `waiting` has those that its order of turns keeps here."""

    __slots__ = ("adapter", "deficit", "max_inside", "num_inside", "num_waiting", "waiting")

    def __init__(self, adapter: str | None, max_inside: int | None) -> None:
        self.adapter = adapter
        self.max_inside = max_inside
        self.num_inside = 0
        self.num_waiting = 0
        self.deficit = 0.0
        self.waiting: OrderedDict[Ticket, None] = OrderedDict()

    @property
    def has_room(self) -> bool:
        return self.max_inside is None or self.num_inside < self.max_inside


class Ticket:
    """One that waits; its future is set when its turn has come."""

    __slots__ = ("cost", "future", "lane", "was_admitted")

    def __init__(self, lane: Lane, cost: int, future: asyncio.Future[None]) -> None:
        self.lane = lane
        self.cost = cost
        self.future = future
        self.was_admitted = False


class Turns(Protocol):
    """An order of those who wait. Every operation takes constant time, if amortized."""

    def add(self, ticket: Ticket) -> None: ...

    def discard(self, ticket: Ticket) -> None:
        """It waits no longer, without having had its turn."""
        ...

    def take(self) -> Ticket | None:
        """Remove and return the next one whose lane has room."""
        ...

    def reopen(self, lane: Lane) -> None:
        """A lane that may have been full has room again."""
        ...


class FirstCome:
    """Whoever asked first goes first, except that those whose lane is full are passed over.

    They are set aside in their lane when they come to the head of the line. So they are older than
    all who still stand in it, and go to its head again when their lane has room.
    """

    def __init__(self) -> None:
        self._line: OrderedDict[Ticket, None] = OrderedDict()

    def add(self, ticket: Ticket) -> None:
        self._line[ticket] = None

    def discard(self, ticket: Ticket) -> None:
        if ticket in self._line:
            del self._line[ticket]
        else:
            del ticket.lane.waiting[ticket]

    def take(self) -> Ticket | None:
        while self._line:
            ticket, _ = self._line.popitem(last=False)
            if ticket.lane.has_room:
                return ticket
            ticket.lane.waiting[ticket] = None
        return None

    def reopen(self, lane: Lane) -> None:
        if lane.waiting and lane.has_room:
            ticket, _ = lane.waiting.popitem(last=False)
            self._line[ticket] = None
            self._line.move_to_end(ticket, last=False)


class DeficitRoundRobin:
    """Lanes take turns, and have equal shares of the cost that is admitted, not of the calls.

    A lane whose turn begins is given the mean cost as credit, and its turn lasts as long as its
    credit pays for the first in it. A lane in which nobody waits has no credit.
    """

    def __init__(self) -> None:
        self._ring: OrderedDict[Lane, None] = OrderedDict()
        self._whose_turn: Lane | None = None
        self._mean_cost = 1.0

    def add(self, ticket: Ticket) -> None:
        self._mean_cost += (ticket.cost - self._mean_cost) * MEAN_WEIGHT
        lane = ticket.lane
        lane.waiting[ticket] = None
        if lane.has_room:
            self._ring.setdefault(lane)

    def discard(self, ticket: Ticket) -> None:
        self._remove(ticket)

    def take(self) -> Ticket | None:
        while self._ring:
            lane = next(iter(self._ring))
            if not lane.has_room:
                self._end_turn(lane)  # what credit it has it keeps until it has room
                continue
            ticket = next(iter(lane.waiting))
            if lane is not self._whose_turn:
                self._whose_turn = lane
                lane.deficit += self._mean_cost
            if len(self._ring) == 1:
                lane.deficit = max(lane.deficit, float(ticket.cost))  # nobody to be fair to
            if ticket.cost <= lane.deficit:
                lane.deficit -= ticket.cost
                self._remove(ticket)
                return ticket
            self._end_turn(lane)
            self._ring[lane] = None
        return None

    def reopen(self, lane: Lane) -> None:
        if lane.waiting:
            self._ring.setdefault(lane)

    def _remove(self, ticket: Ticket) -> None:
        lane = ticket.lane
        del lane.waiting[ticket]
        if not lane.waiting:
            lane.deficit = 0.0
            self._end_turn(lane)

    def _end_turn(self, lane: Lane) -> None:
        self._ring.pop(lane, None)
        if self._whose_turn is lane:
            self._whose_turn = None
