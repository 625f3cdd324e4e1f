"""A number of places, and those who wait for one: what limits on calls in flight are made of."""

from __future__ import annotations

import asyncio

from lorry.limits.lanes import Lane, Ticket, Turns


class Gate:
    """Lets at most `capacity` in at once, and at most `max_per_lane` of one lane.

    It belongs to one event loop. While a place is free, all who wait are in lanes that are full,
    so that one who comes and finds room in its lane overtakes nobody.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        capacity: int,
        turns: Turns,
        max_per_lane: int | None = None,
    ) -> None:
        self.num_waiting = 0
        self.num_inside = 0
        self._loop = loop
        self._capacity = capacity
        self._turns = turns
        self._max_per_lane = max_per_lane
        self._lanes: dict[str | None, Lane] = {}

    @property
    def num_lanes(self) -> int:
        """Lanes that somebody is in or waits in."""
        return len(self._lanes)

    async def enter(self, adapter: str | None, cost: int) -> Lane:
        """Wait for a place; the lane that is returned is what `leave` wants back."""
        lane = self._lanes.get(adapter)
        if lane is None:
            lane = self._lanes[adapter] = Lane(adapter, self._max_per_lane)
        if self.num_inside < self._capacity and lane.has_room:
            self.num_inside += 1
            lane.num_inside += 1
            return lane
        ticket = Ticket(lane, cost, self._loop.create_future())
        self._turns.add(ticket)
        self.num_waiting += 1
        lane.num_waiting += 1
        self._admit()  # nobody: but it sets this one aside if only its lane is full
        try:
            await ticket.future
        except BaseException:
            if ticket.was_admitted:  # and cancelled in the same moment
                self.leave(lane)
            else:
                self._turns.discard(ticket)
                self.num_waiting -= 1
                lane.num_waiting -= 1
                self._drop_if_empty(lane)
            raise
        return lane

    def leave(self, lane: Lane) -> None:
        """Give a place back, and let the next one in."""
        self.num_inside -= 1
        lane.num_inside -= 1
        self._turns.reopen(lane)
        self._admit()
        self._drop_if_empty(lane)

    def resize(self, capacity: int) -> None:
        """From now on so many may be in at once; whoever is in stays."""
        self._capacity = capacity
        self._admit()

    def _admit(self) -> None:
        if self._loop.is_closed():
            return  # and with it ended all who waited
        while self.num_inside < self._capacity:
            ticket = self._turns.take()
            if ticket is None:
                return
            ticket.was_admitted = True
            self.num_waiting -= 1
            self.num_inside += 1
            ticket.lane.num_waiting -= 1
            ticket.lane.num_inside += 1
            if not ticket.future.done():
                ticket.future.set_result(None)

    def _drop_if_empty(self, lane: Lane) -> None:
        """Adapters come and go; a lane that nobody is in must not stay."""
        if lane.num_inside == 0 and lane.num_waiting == 0:
            self._lanes.pop(lane.adapter, None)
