"""Sends one planned request, stamps its tokens as their bytes arrive, and records how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from gevent import GreenletExit

from lorry_loadtest.answer import Answer
from lorry_loadtest.connection import Connection
from lorry_loadtest.http1 import MalformedHttp, ResponseReader
from lorry_loadtest.limits import Limits
from lorry_loadtest.outcomes import AttemptFailed, Outcome, outcome_of_status
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.sse import EventSplitter
from lorry_loadtest.wire import Wire
from lorry_loadtest.workload import PlannedRequest

# Returns what is wrong with a finished answer's text, or None.
Verify = Callable[[PlannedRequest, str], str | None]


@dataclass(frozen=True, slots=True)
class Attempted:
    """A finished attempt. `interrupted` is the kill that ended it, to be raised again."""

    record: RequestRecord
    text: str
    interrupted: GreenletExit | None = None


def attempt(
    planned: PlannedRequest,
    *,
    wire: Wire,
    connection: Connection,
    limits: Limits,
    origin_ns: int,
    verify: Verify | None = None,
) -> Attempted:
    """Tries once and never raises for what the network or the server does.

    `origin_ns` is the `perf_counter_ns` that the record's times count from.
    """
    t_sched_ns = time.perf_counter_ns()
    exchange = _Exchange(connection, limits=limits)
    outcome: Outcome = "ok"
    error: str | None = None
    interrupted: GreenletExit | None = None
    try:
        exchange.run(wire.encode(planned))
        complaint = verify(planned, exchange.answer.text) if verify else None
        if complaint is not None:
            raise AttemptFailed("wrong_output", complaint)
    except AttemptFailed as exc:
        outcome, error = exc.outcome, str(exc)
    except GreenletExit as exc:
        outcome, error, interrupted = "cancelled", "stopped at the drain limit", exc
    finally:
        t_end_ns = time.perf_counter_ns()
        exchange.finish()
    answer = exchange.answer
    usage = answer.usage
    details = usage.prompt_tokens_details if usage else None
    record = RequestRecord(
        level=planned.place.level,
        worker=planned.place.worker,
        user=planned.place.user,
        request=planned.place.request,
        adapter=planned.adapter,
        prompt_words=len(planned.prompt.split()),
        max_tokens=planned.max_tokens,
        outcome=outcome,
        error=error,
        http_status=exchange.reader.status or None,
        connection_reused=exchange.reused,
        t_sched_ns=t_sched_ns - origin_ns,
        t_send_ns=None if exchange.t_send_ns is None else exchange.t_send_ns - origin_ns,
        t_end_ns=t_end_ns - origin_ns,
        event_ns=tuple(stamp_ns - origin_ns for stamp_ns in answer.event_ns),
        event_tokens=tuple(answer.event_tokens),
        tokens_stated=answer.tokens_stated,
        prompt_tokens=usage.prompt_tokens if usage else None,
        cached_tokens=details.cached_tokens if details else None,
        completion_tokens=answer.num_tokens,
        finish_reason=answer.finish_reason,
        timings=answer.timings,
    )
    return Attempted(record, answer.text, interrupted)


class _Exchange:
    """One request and its answer on a connection."""

    def __init__(self, connection: Connection, *, limits: Limits) -> None:
        self.reader = ResponseReader()
        self.answer = Answer()
        self.t_send_ns: int | None = None
        self.reused = False
        self._connection = connection
        self._limits = limits
        self._splitter = EventSplitter()
        self._error_body = b""
        self._last_event_ns: int | None = None

    def run(self, request: bytes) -> None:
        """Raises AttemptFailed unless a whole, finished stream came back."""
        self.reused = self._connection.open()
        self.t_send_ns = time.perf_counter_ns()
        self._connection.send(request)
        while not self.reader.complete:
            self._read_once()
        self._check_status()
        if not self._splitter.is_between_events:
            raise AttemptFailed("truncated", "the stream ended inside an event")
        self.answer.check_finished()

    def finish(self) -> None:
        """Closes the connection unless the whole answer was read and it may be used again."""
        if not self.reader.reusable:
            self._connection.close()

    def _read_once(self) -> None:
        deadline_ns, reason = self._deadline()
        try:
            arrived_ns, data = self._connection.receive(deadline_ns=deadline_ns)
        except TimeoutError as exc:
            raise reason from exc
        except OSError as exc:
            raise self._lost(str(exc)) from exc
        if not data:
            if not self.reader.feed_eof():
                raise self._lost("the server closed the connection")
            return
        try:
            body = self.reader.feed(data)
        except MalformedHttp as exc:
            raise AttemptFailed("sse_malformed", str(exc)) from exc
        if not body:
            return
        if self.reader.status != 200:
            self._error_body += body
            return
        for event in self._splitter.feed(body):
            self._last_event_ns = arrived_ns
            self.answer.feed(event, arrived_ns=arrived_ns)

    def _deadline(self) -> tuple[int, AttemptFailed]:
        """When the next read must have returned, and what it is called when it has not."""
        assert self.t_send_ns is not None
        limits = self._limits
        total_ns = self.t_send_ns + round(limits.total_s * 1e9)
        if self._last_event_ns is None:
            next_ns = self.t_send_ns + round(limits.first_event_s * 1e9)
            late = AttemptFailed("timeout_ttft", f"no event within {limits.first_event_s:g} s")
        else:
            next_ns = self._last_event_ns + round(limits.stall_s * 1e9)
            late = AttemptFailed("stalled", f"no event for {limits.stall_s:g} s")
        if next_ns <= total_ns:
            return next_ns, late
        return total_ns, AttemptFailed("timeout_total", f"not done in {limits.total_s:g} s")

    def _lost(self, reason: str) -> AttemptFailed:
        if self.reader.status == 0:
            return AttemptFailed("connect", f"no answer: {reason}")
        if self.reader.status != 200:
            return AttemptFailed(outcome_of_status(self.reader.status), reason)
        return AttemptFailed("truncated", reason)

    def _check_status(self) -> None:
        status = self.reader.status
        if status != 200:
            text = self._error_body[:200].decode("utf-8", "replace")
            raise AttemptFailed(outcome_of_status(status), f"HTTP {status}: {text}")
        content_type = self.reader.headers.get("content-type", "")
        if not content_type.startswith("text/event-stream"):
            raise AttemptFailed("http_other", f"a 200 of {content_type or 'no content type'}")
