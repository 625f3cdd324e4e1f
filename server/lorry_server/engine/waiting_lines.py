"""`WaitingLines`: the sequences that wait, one line for each flow, each in order of arrival."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, KeysView
from itertools import chain

from lorry_server.engine.sequence import Flow, Sequence


class WaitingLines:
    """Within a flow nobody overtakes; which flow is served next is for others to say.

    A flow without waiting sequences has no line. Only the first of a line, its head, is ever
    admitted. A sequence that returns from running came before all that wait in its line, since
    those that run were heads before them.
    """

    def __init__(self) -> None:
        self._lines: dict[Flow, deque[Sequence]] = {}
        self._num_sequences = 0

    def __len__(self) -> int:
        return self._num_sequences

    def __iter__(self) -> Iterator[Sequence]:
        """All that wait, line by line."""
        return chain.from_iterable(self._lines.values())

    def __contains__(self, flow: Flow) -> bool:
        return flow in self._lines

    @property
    def flows(self) -> KeysView[Flow]:
        """The flows that have a line."""
        return self._lines.keys()

    def head(self, flow: Flow) -> Sequence | None:
        """The one of a flow that is next; None where none of it waits."""
        line = self._lines.get(flow)
        return line[0] if line else None

    def heads(self) -> list[Sequence]:
        """The one of each flow that is next, in no order that means anything."""
        return [line[0] for line in self._lines.values()]

    def push(self, sequence: Sequence) -> bool:
        """Line a sequence up; True where its flow had no line before."""
        self._num_sequences += 1
        flow = sequence.flow
        line = self._lines.get(flow)
        if line is None:
            self._lines[flow] = deque((sequence,))
            return True
        if sequence.order > line[-1].order:
            line.append(sequence)
        else:
            assert sequence.order < line[0].order, "a sequence ran before one that came earlier"
            line.appendleft(sequence)
        return False

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out of its line, most often the head."""
        line = self._lines[sequence.flow]
        if line[0] is sequence:
            line.popleft()
        else:
            line.remove(sequence)
        self._num_sequences -= 1
        if not line:
            del self._lines[sequence.flow]

    def check_integrity(self) -> None:
        """Assert that every line is in order of arrival and holds its own flow only."""
        for flow, line in self._lines.items():
            orders = [sequence.order for sequence in line]
            assert orders, "a line is empty"
            assert orders == sorted(orders), "a line is mixed up"
            assert all(sequence.flow == flow for sequence in line)
        assert self._num_sequences == sum(len(line) for line in self._lines.values())
