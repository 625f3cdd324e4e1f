"""The timings of the last calls by request id, for calls whose answer has no room for a timing."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from lorry.timing import Stopwatch, Timing

MAX_CALLS = 1024


class LoggedCall(msgspec.Struct):
    """What is kept of a call. `num_tokens` is the server's count, once it is known."""

    stopwatch: Stopwatch
    num_tokens: int | None = None


class CallLog:
    """Keeps the newest `max_calls`; the oldest make room."""

    def __init__(self, *, max_calls: int = MAX_CALLS) -> None:
        self._max_calls = max_calls
        self._calls: OrderedDict[str, LoggedCall] = OrderedDict()

    def add(self, request_id: str, stopwatch: Stopwatch) -> LoggedCall:
        """Note a call that begins; its timing can be asked for from now on."""
        call = self._calls[request_id] = LoggedCall(stopwatch)
        self._calls.move_to_end(request_id)
        if len(self._calls) > self._max_calls:
            self._calls.popitem(last=False)
        return call

    def timing(self, request_id: str, *, num_tokens: int | None) -> Timing:
        """The record so far; `num_tokens` is the count of the completion if the asker has it.

        Raises LookupError for a call that is not (or no longer) known.
        """
        call = self._calls.get(request_id)
        if call is None:
            raise LookupError(
                f"no call {request_id!r} is among the last {self._max_calls} of this client"
            )
        count = call.num_tokens if num_tokens is None else num_tokens
        return call.stopwatch.snapshot(num_tokens=count)
