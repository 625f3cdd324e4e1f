"""`Deadlines`: which of the accepted sequences may not be computed any more because time is up."""

from __future__ import annotations

import heapq

from lorry_server.engine.sequence import Sequence

MIN_SIZE_TO_TIDY = 64


class Deadlines:
    """A heap of the sequences that have a deadline, the earliest first.

    Owned by the engine's thread. Sequences that have ended stay in it until they are in the way:
    it is tidied when it has doubled, so that each costs a constant time over all.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Sequence]] = []  # orders are unique: no ties
        self._tidy_at = MIN_SIZE_TO_TIDY

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, sequence: Sequence) -> None:
        """Watch a sequence; one without a deadline costs nothing."""
        deadline_s = sequence.request.deadline_s
        if deadline_s is None:
            return
        if len(self._heap) >= self._tidy_at:
            self._heap = [entry for entry in self._heap if entry[2].finish_reason is None]
            heapq.heapify(self._heap)
            self._tidy_at = max(MIN_SIZE_TO_TIDY, 2 * len(self._heap))
        heapq.heappush(self._heap, (deadline_s, sequence.order, sequence))

    def lift(self, sequence: Sequence) -> None:
        """Watch a sequence no longer. It looks at all of them: that is for what is rare."""
        self._heap = [entry for entry in self._heap if entry[2] is not sequence]
        heapq.heapify(self._heap)

    def take_expired(self, now_s: float) -> list[Sequence]:
        """Return the unfinished sequences whose time is up, the earliest deadline first."""
        expired: list[Sequence] = []
        while self._heap and self._heap[0][0] <= now_s:
            sequence = heapq.heappop(self._heap)[2]
            if sequence.finish_reason is None:
                expired.append(sequence)
        return expired
