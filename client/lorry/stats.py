"""What a client has done so far, and what it is doing: counters, and the snapshot that users see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from lorry.balancing import EndpointStats


@dataclass(frozen=True, slots=True)
class ClientStats:
    """The calls of one client and its `with_options` views, in all event loops.

    Every request to the server is a call, also those that only ask for its state. Each ends in one
    of three ways: it finished, it failed (`num_failed` by the name of the error's class), or its
    caller left it. `num_queued` of those in flight wait for their turn. `loop_lag_max` is the
    worst that any call has seen, in seconds. The connections of the running loop are None where
    the transport does not count them. `endpoints` has a record for each server.
    """

    num_started: int
    num_finished: int
    num_cancelled: int
    num_failed: Mapping[str, int]
    num_retries: int
    num_in_flight: int
    num_queued: int
    loop_lag_max: float
    num_connections_open: int | None
    num_connections_idle: int | None
    endpoints: tuple[EndpointStats, ...] = ()


class CallCounters(msgspec.Struct):
    """Counts calls; the session of a client owns it and its exchanges write it."""

    num_started: int = 0
    num_finished: int = 0
    num_cancelled: int = 0
    num_failed: Counter[str] = msgspec.field(default_factory=Counter)
    num_retries: int = 0
    num_queued: int = 0
    loop_lag_max: float = 0.0

    @property
    def num_in_flight(self) -> int:
        return self.num_started - self.num_finished - self.num_cancelled - self.num_failed.total()
