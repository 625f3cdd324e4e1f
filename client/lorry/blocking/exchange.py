"""One call on the wire, blocking: its attempts, its deadline, its stopwatch, its bytes."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn
from urllib.parse import urlsplit

from lorry.attempts import (
    IDEMPOTENT_METHODS,
    MAX_ERROR_BODY_BYTES,
    add_attempt_headers,
    idempotency_key,
)
from lorry.blocking.connection import Connection, ConnectionPool
from lorry.blocking.retry_account import RetryAccount
from lorry.call_outcome import (
    cancelled,
    concluded,
    ended_idle,
    note_call,
    too_late,
    unasked_encoding,
)
from lorry.error_mapping import carried_key, status_error
from lorry.errors import (
    ClientError,
    ConnectionLost,
    DeadlineExceeded,
    Phase,
)
from lorry.exchange import END_GRACE_S, TAIL_GRACE_S
from lorry.retry import RetryPolicy
from lorry.timeout import Timeout
from lorry.timing import Stopwatch

READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class BlockingCall:
    """What is to be sent, where, and in what time."""

    method: str
    base_url: str
    path: str
    request_id: str
    timeout: Timeout
    retry: RetryPolicy
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)
    adapter: str | None = None


class BlockingExchange:
    """Sends a call, again where that is safe, and reads the answer within the call's limits.

    One thread uses it; `cancel` may come from another.
    """

    def __init__(self, call: BlockingCall, pool: ConnectionPool, retries: RetryAccount) -> None:
        now = time.perf_counter_ns()
        self.call = call
        self.stopwatch = Stopwatch(created_ns=now, intended_ns=now)
        self._pool = pool
        self._retries = retries
        self._connection: Connection | None = None
        self._response: http.client.HTTPResponse | None = None
        self._body_ended = False
        self._started_at = time.monotonic()
        self._phase: Phase = "queue"
        self._limits: list[tuple[float, Phase, float]] = []  # when, which, its seconds
        self._grace_ends_at: float | None = None  # once the end of a complete answer is waited for
        self._first_token_came = False
        self._cancel_reason: str | None = None
        self._was_cancelled = threading.Event()
        self._lock = threading.Lock()  # of `_connection`, between its reader and `cancel`

    def open(self) -> Mapping[str, str]:
        """Send until an answer with status 2xx begins; return its headers.

        Raises a described ClientError.
        """
        self._started_at = time.monotonic()
        failures: list[ClientError] = []
        was_stale = False
        self._retries.pay_in()
        try:
            while True:
                try:
                    return self._attempt()
                except ClientError as failure:
                    self._note(failure)
                    failures.append(failure)
                if not was_stale and self._is_stale(failures[-1]):
                    was_stale, delay_s = True, 0.0
                else:
                    verdict = self.call.retry.judge(
                        failures[-1],
                        num_attempts=len(failures) - was_stale,
                        remaining_s=self._remaining_s(),
                        random=random.random,
                        last_there=failures[-1],
                    )
                    if verdict.delay_s is None:
                        raise concluded(failures, verdict.reason)
                    delay_s = verdict.delay_s
                if not self._retries.pay_out():
                    raise concluded(failures, "budget")
                self._was_cancelled.wait(delay_s)
        except ClientError as error:
            self.describe(error)
            raise

    def read(self) -> bytes:
        """The next bytes of the body, b"" at its end; stamps the stopwatch."""
        self._set_phase("total", self._read_limits())
        try:
            return self._read_stamped()
        except ClientError as error:
            self.describe(error)
            raise

    def read_end(self) -> bytes:
        """What follows when the content is complete, as `read`; b"" also when that takes too long.

        All such reads share one short grace.
        """
        if self._grace_ends_at is None:
            self._grace_ends_at = time.monotonic() + TAIL_GRACE_S
        self._set_phase("total", [(self._grace_ends_at, "total", TAIL_GRACE_S)])
        try:
            return self._read_stamped()
        except DeadlineExceeded:
            self.stopwatch.done_ns = self.stopwatch.last_read_ns
            return b""

    def read_all(self) -> bytes:
        """The whole body, and the end of the call."""
        self._first_token_came = True  # it cannot be seen in a body that is not a stream
        pieces = []
        while piece := self.read():
            pieces.append(piece)
        self.stopwatch.done_ns = time.perf_counter_ns()
        self.close()
        return b"".join(pieces)

    def finish(self) -> None:
        """Wait shortly for the end of a body whose content is complete, then close."""
        self.stopwatch.done_ns = time.perf_counter_ns()
        self._set_phase("total", [(time.monotonic() + END_GRACE_S, "total", END_GRACE_S)])
        try:
            while self._read_some():
                pass
        except ClientError:
            pass  # the connection cannot be used again; nothing else is lost
        self.close()

    def close(self) -> None:
        """Keep the connection if the body was read to its end, else close it now."""
        with self._lock:  # a `cancel` after this must not close what the next call is given
            connection, self._connection = self._connection, None
        response, self._response = self._response, None
        if connection is None:
            return
        if response is not None and self._body_ended and not response.will_close:
            response.close()
            self._pool.give_back(connection)
            return
        connection.abort()
        if response is not None:
            response.close()

    def cancel(self, reason: str) -> None:
        """End the call, from any thread: whoever waits in it gets StreamCancelled."""
        self._cancel_reason = reason
        self._was_cancelled.set()
        with self._lock:
            if self._connection is not None:
                self._connection.socket.abort()

    def first_token_came(self) -> None:
        """From now on the limit on the first token does not hold."""
        self._first_token_came = True

    def describe(self, error: ClientError) -> None:
        """Write on an error which call it ended, and when."""
        self._note(error)
        if isinstance(error, DeadlineExceeded) and not error.limit_s:
            error.limit_s = self.call.timeout.total or 0.0  # of an error that the server wrote
        if self.stopwatch.done_ns is None:
            self.stopwatch.done_ns = time.perf_counter_ns()
        error.timing = self.stopwatch.snapshot()

    def _is_stale(self, failure: ClientError) -> bool:
        is_harmless = self.call.method in IDEMPOTENT_METHODS or self._pool.heeds_keys
        return is_harmless and ended_idle(failure, self.stopwatch.attempts)

    def _note(self, failure: ClientError) -> None:
        call = self.call
        note_call(
            failure,
            request_id=call.request_id,
            endpoint=call.base_url,
            adapter=call.adapter,
            num_attempts=len(self.stopwatch.attempts),
        )

    def _attempt(self) -> Mapping[str, str]:
        call = self.call
        attempt = self.stopwatch.start_attempt(time.perf_counter_ns())
        try:
            self._begin_connecting()
            connection = self._pool.take()
            attempt.reused_connection = connection is not None
            if connection is None:
                connection = self._pool.connect(self._patience)
            attempt.connected_ns = time.perf_counter_ns()
            connection.socket.patience = self._patience
            self._connection = connection
            self._set_phase("headers")
            connection.http.request(
                call.method, _target(call), body=call.body, headers=self._headers()
            )
            response = self._response = connection.http.getresponse()
            attempt.headers_ns = time.perf_counter_ns()
        except BaseException as error:
            self._fail(error)
        headers = {name.lower(): value for name, value in response.headers.items()}
        if headers.get("idempotency-key") == idempotency_key(call.request_id):
            self._pool.heeds_keys = True
        if not 200 <= response.status < 300:
            body = self._read_error_body()
            self.close()
            secret = carried_key(call.headers)
            raise status_error(response.status, headers, body, secret=secret)
        encoding = headers.get("content-encoding", "identity")
        if encoding != "identity":
            self.close()
            raise unasked_encoding(encoding)
        return headers

    def _begin_connecting(self) -> None:
        limit_s = self.call.timeout.connect
        limits: list[tuple[float, Phase, float]] = []
        if limit_s is not None:
            limits = [(time.monotonic() + limit_s, "connect", limit_s)]
        self._set_phase("connect", limits)
        self._patience()  # there may be none left

    def _headers(self) -> dict[str, str]:
        call = self.call
        headers = {**call.headers, "host": urlsplit(call.base_url).netloc}
        headers["x-request-id"] = call.request_id
        if call.method == "POST":
            headers["idempotency-key"] = idempotency_key(call.request_id)
        add_attempt_headers(headers, len(self.stopwatch.attempts), self._remaining_s())
        return headers

    def _read_error_body(self) -> bytes:
        body = b""
        try:
            while len(body) < MAX_ERROR_BODY_BYTES:
                piece = self._read_some()
                if not piece:
                    break
                body += piece
        except ConnectionLost:
            pass  # the status says enough
        return body

    def _read_stamped(self) -> bytes:
        data = self._read_some()
        if data and self._connection is not None:
            self.stopwatch.received(self._connection.socket.read_ns)
        return data

    def _read_some(self) -> bytes:
        """At least one byte, b"" at the end of the body."""
        response = self._response
        if response is None:
            return b""
        try:
            data = response.read1(READ_BYTES)
            if not data:
                if not response.chunked and response.length:
                    raise http.client.IncompleteRead(b"", response.length)
                self._body_ended = True
        except BaseException as error:
            self._fail(error)
        return data

    def _fail(self, error: BaseException) -> NoReturn:
        """Close the connection and raise what an error of it means."""
        self._body_ended = False
        self.close()
        if self._cancel_reason is not None and isinstance(error, Exception):
            raise cancelled(self._cancel_reason) from None
        if isinstance(error, TimeoutError) and error.errno is None:
            raise self._too_late() from None
        if isinstance(error, (OSError, http.client.HTTPException)):
            raise ConnectionLost(
                f"the connection ended before the answer did ({error or type(error).__name__})"
            ) from error
        raise error

    def _set_phase(
        self, phase: Phase, limits: list[tuple[float, Phase, float]] | None = None
    ) -> None:
        """What is waited for from now on, within `limits` and the limit on the whole call."""
        self._phase = phase
        self._limits = list(limits or ())
        total = self.call.timeout.total
        if total is not None:
            self._limits.append((self._started_at + total, "total", total))

    def _patience(self) -> float | None:
        """How long the next wait may take; raises TimeoutError when time is up, or cancelled."""
        if self._cancel_reason is not None:
            raise TimeoutError
        if not self._limits:
            return None
        remaining_s = min(self._limits)[0] - time.monotonic()
        if remaining_s <= 0:
            raise TimeoutError
        return remaining_s

    def _too_late(self) -> DeadlineExceeded:
        _, phase, limit_s = min(self._limits)
        if phase == "connect":
            return DeadlineExceeded(
                f"no connection to {self.call.base_url} within {limit_s:g} s",
                phase=phase,
                limit_s=limit_s,
            )
        if phase != "total":
            return too_late(phase, limit_s)
        if self._phase == "total" and not self._first_token_came:
            return too_late("first_token", limit_s)
        return too_late(self._phase, limit_s)

    def _read_limits(self) -> list[tuple[float, Phase, float]]:
        """The limits on the first token and on silence."""
        limits: list[tuple[float, Phase, float]] = []
        first_token, idle = self.call.timeout.first_token, self.call.timeout.idle
        if first_token is not None and not self._first_token_came:
            limits.append((self._started_at + first_token, "first_token", first_token))
        if idle is not None:
            limits.append((time.monotonic() + idle, "idle", idle))
        return limits

    def _remaining_s(self) -> float | None:
        total = self.call.timeout.total
        return None if total is None else self._started_at + total - time.monotonic()


def _target(call: BlockingCall) -> str:
    """The path on the server: that of the address, where it has one, and the route's."""
    return urlsplit(call.base_url).path + call.path
