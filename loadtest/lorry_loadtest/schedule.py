"""The stream of a run as it is fixed before it: which requests, when, and by which worker.

Worker w of W sends the requests whose index leaves w when divided by W, so however many workers there
are, together they send the same stream.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from lorry_loadtest.arrivals import Arrival
from lorry_loadtest.planned import PlannedRequest, stream_hash
from lorry_loadtest.workload import Workload

# A closed loop has no last request; so many of its stream are hashed.
CLOSED_HASHED = 1000


@dataclass(frozen=True, slots=True)
class Schedule:
    """An open loop: `times_ns[i]` is when request i arrives, from the start of the run."""

    workload: Workload
    times_ns: array[int]

    def __len__(self) -> int:
        return len(self.times_ns)

    def request_at(self, index: int) -> PlannedRequest:
        return self.workload.request_at(index, times_ns=self.times_ns)

    def slice_of(self, worker: int, num_workers: int) -> range:
        """The indices of one worker's requests, ascending."""
        if not 0 <= worker < num_workers:
            raise ValueError(f"worker {worker} of {num_workers}")
        return range(worker, len(self.times_ns), num_workers)

    def requests(self) -> Iterator[PlannedRequest]:
        return (self.request_at(index) for index in range(len(self)))

    @property
    def stream_hash(self) -> str:
        """SHA-256 over all of it; see `StreamHash` for what goes in."""
        return stream_hash(self.requests())


def plan_schedule(workload: Workload, arrival: Arrival, *, until_s: float) -> Schedule:
    """All arrivals before `until_s` seconds; ValueError when there is none."""
    times_ns = array(
        "q",
        (round(t_s * 1e9) for t_s in arrival.times_s(seed=workload.arrival_seed, until_s=until_s)),
    )
    if not times_ns:
        raise ValueError(f"no request arrives within {until_s:g} s")
    return Schedule(workload, times_ns)


def closed_stream_hash(workload: Workload) -> str:
    """Of the first thousand requests of a closed loop, which have no times."""
    return stream_hash(workload.request_at(index) for index in range(CLOSED_HASHED))
