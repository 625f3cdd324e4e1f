"""Sends one planned request, stamps its tokens as their bytes arrive, and records how it ended."""

from __future__ import annotations

import time

from gevent import GreenletExit

from lorry_loadtest.answer import Answer
from lorry_loadtest.attempted import (
    Attempted,
    Sender,
    Verify,
    complaint_of,
    hash_of,
    record_of,
)
from lorry_loadtest.connection import Connection
from lorry_loadtest.http1 import MalformedHttp, ResponseReader
from lorry_loadtest.limits import Limits
from lorry_loadtest.outcomes import AttemptFailed, Outcome, outcome_of_status
from lorry_loadtest.planned import PlannedRequest
from lorry_loadtest.sse import EventSplitter
from lorry_loadtest.stream_reads import Read, ReadStream
from lorry_loadtest.watchdog import WATCHDOG
from lorry_loadtest.wire import Wire

# The greenlet is woken for batches of reads; a slow stream's wait no longer than this.
_POKE_NS = 250_000_000


def attempt(
    planned: PlannedRequest,
    *,
    wire: Wire,
    connection: Connection,
    limits: Limits,
    origin_ns: int,
    start_ns: int = 0,
    sender: Sender | None = None,
    verify: Verify | None = None,
) -> Attempted:
    """Tries once and never raises for what the network or the server does.

    `origin_ns` is the `perf_counter_ns` that the record's times count from, and a planned time counts
    from `start_ns` after it. A request without a planned time is due now.
    """
    now_ns = time.perf_counter_ns() - origin_ns
    exchange = _Exchange(connection, limits=limits, patience_s=planned.patience_s)
    outcome: Outcome = "ok"
    error: str | None = None
    interrupted: GreenletExit | None = None
    request_id = wire.request_id(planned)
    try:
        exchange.run(wire.encode(planned, request_id=request_id))
        complaint = complaint_of(verify, planned, exchange.answer.text)
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

    def since_origin(stamp_ns: int | None) -> int | None:
        return None if stamp_ns is None else stamp_ns - origin_ns

    record = record_of(
        planned,
        sender=sender,
        begin_ns=now_ns,
        start_ns=start_ns,
        t_conn_ns=since_origin(exchange.t_conn_ns),
        t_send_ns=since_origin(exchange.t_send_ns),
        event_kernel_ns=tuple(stamp - origin_ns for stamp in exchange.event_kernel_ns)
        if exchange.kernel_stamps
        else (),
        event_user_ns=tuple(stamp - origin_ns for stamp in exchange.event_user_ns),
        event_tokens=tuple(answer.event_tokens),
        t_done_ns=since_origin(exchange.t_done_ns),
        t_end_ns=t_end_ns - origin_ns,
        outcome=outcome,
        error=error,
        http_status=exchange.reader.status or None,
        finish_reason=answer.finish_reason,
        usage_prompt=usage.prompt_tokens if usage else None,
        usage_completion=usage.completion_tokens if usage else None,
        cached_tokens=details.cached_tokens if details else None,
        text_hash=hash_of(answer.text) if answer.done else None,
        request_id=exchange.reader.headers.get("x-request-id", request_id),
        server_timings=answer.timings,
        reused_connection=exchange.reused,
        kernel_stamps=exchange.kernel_stamps and exchange.num_reads > 0,
        num_reads=exchange.num_reads,
        tokens_stated=answer.tokens_stated,
        content_encoding=exchange.content_encoding,
    )
    return Attempted(record, answer.text, interrupted)


class _Exchange:
    """One request and its answer on a connection. The watchdog's `check` ends it when it is late."""

    def __init__(
        self, connection: Connection, *, limits: Limits, patience_s: float | None = None
    ) -> None:
        self.reader = ResponseReader()
        self.answer = Answer()
        self.t_conn_ns: int | None = None
        self.t_send_ns: int | None = None
        self.t_done_ns: int | None = None
        self.event_kernel_ns: list[int] = []
        self.event_user_ns: list[int] = []
        self.reused = False
        self.num_reads = 0
        self.kernel_stamps = True  # until a read comes without one
        self._connection = connection
        self._limits = limits
        self._patience_s = patience_s
        self._splitter = EventSplitter()
        self._error_body = b""
        self._late: AttemptFailed | None = None
        self._poked_ns = 0

    @property
    def content_encoding(self) -> str | None:
        """What the answer is compressed with."""
        named = self.reader.headers.get("content-encoding", "identity").lower()
        return None if named == "identity" else named

    def run(self, request: bytes) -> None:
        """Raises AttemptFailed unless a whole, finished stream came back."""
        self.reused = self._connection.open()
        self.t_send_ns = time.perf_counter_ns()
        if not self.reused:
            self.t_conn_ns = self.t_send_ns
        self._connection.send(request)
        WATCHDOG.watch(self)
        try:
            self._read_all()
        finally:
            WATCHDOG.unwatch(self)
        self._check_status()
        if not self._splitter.is_between_events:
            raise AttemptFailed("truncated", "the stream ended inside an event")
        self.answer.check_finished()

    def finish(self) -> None:
        """Closes the connection unless the whole answer was read and it may be used again."""
        if not self.reader.reusable:
            self._connection.close()

    def check(self, now_ns: int) -> None:
        """The watchdog's: ends the connection when the attempt is out of time."""
        if self._late is not None or self.t_send_ns is None:
            return
        stream = self._connection.stream
        deadline_ns, reason = self._deadline(stream)
        if now_ns >= deadline_ns:
            self._late = reason
            stream.abort()
        elif now_ns - self._poked_ns >= _POKE_NS:
            self._poked_ns = now_ns
            stream.poke()

    def _read_all(self) -> None:
        stream = self._connection.stream
        while not self.reader.complete:
            reads = stream.wait_reads()
            if self._late is not None:
                raise self._late
            if not reads:
                self._end(stream.error)
                return
            for read in reads:
                self._take(read)
            if self.reader.status and not self.reader.is_chunked:
                stream.hand_over_each_read()

    def _end(self, error: OSError | None) -> None:
        """The connection is at its end, which may also be the answer's."""
        if not self.reader.feed_eof():
            raise self._lost(str(error) if error else "the server closed the connection")

    def _take(self, read: Read) -> None:
        self.num_reads += 1
        try:
            body = self.reader.feed(read.data)
        except MalformedHttp as exc:
            raise AttemptFailed("sse_malformed", str(exc)) from exc
        if not read.kernel_ns:
            self.kernel_stamps = False
        if not body:
            return
        if self.reader.status != 200:
            self._error_body += body
            return
        for event in self._splitter.feed(body):
            if self.answer.feed(event):
                self.event_kernel_ns.append(read.kernel_ns)
                self.event_user_ns.append(read.user_ns)
            if self.answer.done and self.t_done_ns is None:
                self.t_done_ns = read.kernel_ns or read.user_ns

    def _deadline(self, stream: ReadStream) -> tuple[int, AttemptFailed]:
        """When something must have come, and what it is called when it has not.

        A head without an event is no beginning: servers send it before they have a first token. A
        read that nobody has looked at yet may be the first event, and is taken for it until then.
        """
        assert self.t_send_ns is not None
        limits = self._limits
        has_unseen = stream.last_read_ns >= self.t_send_ns and not stream.is_idle
        if not self.event_user_ns and not has_unseen:
            next_ns = self.t_send_ns + round(limits.first_event_s * 1e9)
            late = AttemptFailed("timeout_ttft", f"no event within {limits.first_event_s:g} s")
        else:
            next_ns = stream.last_read_ns + round(limits.stall_s * 1e9)
            late = AttemptFailed("stalled", f"no event for {limits.stall_s:g} s")
        total_ns = self.t_send_ns + round(limits.total_s * 1e9)
        if total_ns < next_ns:
            next_ns = total_ns
            late = AttemptFailed("timeout_total", f"not done in {limits.total_s:g} s")
        if self._patience_s is not None:
            leave_ns = self.t_send_ns + round(self._patience_s * 1e9)
            if leave_ns < next_ns:
                next_ns = leave_ns
                late = AttemptFailed("abandoned", f"left after {self._patience_s:.3g} s")
        return next_ns, late

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
        if self.content_encoding is not None:
            raise AttemptFailed(
                "sse_malformed", f"the stream is compressed with {self.content_encoding}, unasked"
            )
