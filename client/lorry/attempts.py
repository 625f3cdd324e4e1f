"""The attempts of one call: which server each goes to, what it says of itself, when one is the last.

A request is sent again when the failure shows that no server has worked on it, as `RetryPolicy`
judges, and where another server is there, to that one. One case more is a connection that was kept
from an earlier call and ends before the first byte of the answer: servers close idle connections,
and the request may have crossed with that. It is sent again at once, but once only, and only
where a second copy does no harm: when its method is idempotent by the standard (RFC 9110, 9.2.2),
or when the server has shown that it heeds idempotency keys, by repeating one in an answer.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, NoReturn, Protocol
from urllib.parse import quote

import msgspec

from lorry.balancing import Balancer, EndpointState, Visit
from lorry.call_outcome import concluded, ended_idle, note_call, unasked_encoding
from lorry.config import checked_headers
from lorry.error_mapping import carried_key, status_error
from lorry.errors import (
    AdapterLoading,
    ClientError,
    ConfigError,
    ConnectionLost,
    DeadlineExceeded,
)
from lorry.middleware import Middleware, send_through
from lorry.patience import Patience
from lorry.retry import RetryPolicy
from lorry.telemetry import Telemetry
from lorry.timeout import Timeout
from lorry.timing import AttemptTiming, Stopwatch
from lorry.transports.base import Transport, WireRequest, WireResponse

MAX_ERROR_BODY_BYTES = 64 * 1024
IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})

_SAFE_IN_KEYS = "!#$&'()*+,-./:;<=>?@[]^_`{|}~"


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be sent and in what time.

    `make_key` makes the key of each attempt. With `takes_any_status` an answer with any status is an
    answer. `num_tokens` is what a limiter takes the call for. `pinned` is the one server that it may
    go to; None leaves the choice to the balancer.
    """

    method: str
    path: str
    request_id: str
    timeout: Timeout
    retry: RetryPolicy
    headers: Mapping[str, str]
    body: bytes | None = None
    adapter: str | None = None
    make_key: Callable[[], Awaitable[str]] | None = None
    num_tokens: int = 0
    takes_any_status: bool = False
    pinned: EndpointState | None = None

    def __repr__(self) -> str:
        # headers may hold a key, and the body a prompt
        return f"Call({self.method} {self.path}, request_id={self.request_id!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("method", self.method), ("path", self.path)]


class Outlet(msgspec.Struct, frozen=True):
    """What the calls of one client go out through."""

    transport: Transport
    balancer: Balancer
    middleware: tuple[Middleware, ...] = ()
    telemetry: Telemetry | None = None


class Turn(Protocol):
    """A call's place among others, which it leaves while it waits to be sent again."""

    def step_aside(self, failure: ClientError) -> None: ...

    async def be_admitted(self) -> None: ...


class Attempts:
    """Sends one call until it is answered with success or must not be sent again."""

    __slots__ = (
        "_call",
        "_key",
        "_outlet",
        "_patience",
        "_state",
        "_stopwatch",
        "_visit",
    )

    def __init__(
        self, call: Call, outlet: Outlet, *, stopwatch: Stopwatch, patience: Patience
    ) -> None:
        self._call = call
        self._outlet = outlet
        self._stopwatch = stopwatch
        self._patience = patience
        self._visit: Visit | None = None
        self._key = idempotency_key(call.request_id)
        states = outlet.balancer.states
        self._state = call.pinned or (states[0] if len(states) == 1 else None)

    @property
    def endpoint(self) -> str:
        """The address of the server that has the call; "" while none of several was chosen."""
        return "" if self._state is None else self._state.url

    async def run(self, turn: Turn) -> WireResponse:
        """Return an answer with status 2xx, its body unread. Raises ClientError.

        The call has its turn for the first attempt already.
        """
        call, balancer = self._call, self._outlet.balancer
        failures: list[ClientError] = []
        tried: list[EndpointState] = []
        was_stale = False
        state = call.pinned or balancer.choose(call.adapter)
        while True:
            self._state = state
            try:
                if failures:
                    await turn.be_admitted()
                return await self._attempt(state)
            except ClientError as failure:
                self.note(failure)
                failures.append(failure)
            tried.append(state)
            if not was_stale and self._is_stale(failures[-1], state):
                was_stale = True
                delay_s = 0.0
            else:
                target = self._next(failures[-1], tried)
                verdict = call.retry.judge(
                    failures[-1],
                    num_attempts=len(failures) - was_stale,
                    remaining_s=self._patience.remaining_s(),
                    random=random.random,
                    last_there=dict(zip(tried, failures, strict=True)).get(target),
                    answer_takes_s=target.answer_takes_s or 0.0,
                )
                if verdict.delay_s is None:
                    raise concluded(failures, verdict.reason)
                state, delay_s = target, verdict.delay_s
            if not balancer.pay_out(state, call.retry.budget):
                raise concluded(failures, "budget")
            turn.step_aside(failures[-1])
            if delay_s > 0:
                try:
                    await self._patience.wait(asyncio.sleep(delay_s), phase="queue")
                except DeadlineExceeded:  # by a little: the delay was to end before it
                    raise concluded(failures, "deadline") from None

    def leave(self, error: BaseException | None) -> None:
        """The call is over, at whichever server it was; harmless when repeated."""
        visit, self._visit = self._visit, None
        if visit is not None:
            visit.end(error, answer_took_s=_answer_took_s(self._stopwatch))

    async def _attempt(self, state: EndpointState) -> WireResponse:
        call, outlet, patience = self._call, self._outlet, self._patience
        key: str | None = None
        if call.make_key is not None:
            key = await patience.wait(_made_key(call.make_key), phase="queue")
        attempt = self._stopwatch.start_attempt(time.perf_counter_ns())
        is_first = len(self._stopwatch.attempts) == 1
        self._visit = outlet.balancer.begin(state, pays_in=call.retry.budget if is_first else None)
        try:
            request = self._request(state, key, patience.remaining_s())
            if outlet.middleware:
                response = await patience.wait(
                    self._send_through(request, state, attempt), phase="headers"
                )
            else:
                response = await patience.wait(
                    outlet.transport.send(request, attempt=attempt), phase="headers"
                )
                self._headers_came(response, state, attempt)
            if not (call.takes_any_status or _is_success(response)):
                await self._refuse(response, key)
        except BaseException as error:
            self.leave(error)
            raise
        return response

    def _request(
        self, state: EndpointState, key: str | None, remaining_s: float | None
    ) -> WireRequest:
        call = self._call
        headers = {**call.headers, "x-request-id": call.request_id}
        if call.make_key is not None:
            headers["authorization"] = f"Bearer {key}"
        if call.method == "POST":
            headers["idempotency-key"] = self._key
        add_attempt_headers(headers, len(self._stopwatch.attempts), remaining_s)
        if self._outlet.telemetry is not None:
            self._outlet.telemetry.add_headers(headers)
        return WireRequest(
            method=call.method,
            url=state.url + call.path,
            headers=headers,
            body=call.body,
            connect_timeout_s=call.timeout.connect,
        )

    def _send_through(
        self, request: WireRequest, state: EndpointState, attempt: AttemptTiming
    ) -> Coroutine[Any, Any, WireResponse]:
        async def transmit(changed: WireRequest) -> WireResponse:
            if changed is not request:
                changed = changed.replace(headers=checked_headers(changed.headers))
            response = await self._outlet.transport.send(changed, attempt=attempt)
            self._headers_came(response, state, attempt)
            return response

        return send_through(self._outlet.middleware, request, transmit)

    def _headers_came(
        self, response: WireResponse, state: EndpointState, attempt: AttemptTiming
    ) -> None:
        attempt.headers_ns = time.perf_counter_ns()
        if not state.heeds_keys and response.headers.get("idempotency-key") == self._key:
            state.heeds_keys = True

    async def _refuse(self, response: WireResponse, key: str | None) -> NoReturn:
        """Make an error of an answer that is none; its connection is closed or given back first."""
        problem: ClientError
        if 200 <= response.status < 300:
            problem = unasked_encoding(response.headers.get("content-encoding"))
        else:
            try:
                body = await _read_error_body(response, self._patience)
            except BaseException:
                response.abort()
                await response.aclose()
                raise
            secret = key or carried_key(self._call.headers)
            problem = status_error(response.status, response.headers, body, secret=secret)
        await response.aclose()
        raise problem

    def _next(self, failure: ClientError, tried: list[EndpointState]) -> EndpointState:
        """Where the next attempt would go. An adapter that is being loaded is waited for."""
        if self._call.pinned is not None or isinstance(failure, AdapterLoading):
            return tried[-1]
        return self._outlet.balancer.choose(self._call.adapter, tried=tried)

    def _is_stale(self, failure: ClientError, state: EndpointState) -> bool:
        is_harmless = self._call.method in IDEMPOTENT_METHODS or state.heeds_keys
        return is_harmless and ended_idle(failure, self._stopwatch.attempts)

    def note(self, failure: ClientError) -> None:
        """Write on an error which call it is of."""
        note_call(
            failure,
            request_id=self._call.request_id,
            endpoint=self.endpoint,
            adapter=self._call.adapter,
            num_attempts=len(self._stopwatch.attempts),
        )


def idempotency_key(request_id: str) -> str:
    """The key of a request and its repetitions.

    Servers may refuse one with the characters of which quoted strings are made, so these are escaped.
    """
    return request_id if request_id.isalnum() else quote(request_id, safe=_SAFE_IN_KEYS)


def add_attempt_headers(
    headers: dict[str, str], num_attempts: int, remaining_s: float | None
) -> None:
    """Say which attempt of its call this is, and how many seconds the call has left."""
    if num_attempts > 1:
        headers["x-request-attempt"] = str(num_attempts)
    if remaining_s is not None:
        headers["x-request-timeout-ms"] = str(max(1, int(remaining_s * 1000)))


def _is_success(response: WireResponse) -> bool:
    return (
        200 <= response.status < 300
        and response.headers.get("content-encoding", "identity") == "identity"
    )


async def _read_error_body(response: WireResponse, patience: Patience) -> bytes:
    body = b""
    try:
        while len(body) < MAX_ERROR_BODY_BYTES:
            piece = await patience.wait(response.read_some(), phase="headers")
            if not piece:
                break
            body += piece
    except ConnectionLost:
        pass  # the status says enough
    return body


async def _made_key(make_key: Callable[[], Awaitable[str]]) -> str:
    """The key that a caller's function makes; whatever goes wrong in it is a ConfigError."""
    try:
        key = await make_key()
    except Exception as error:
        raise ConfigError(f"the function api_key raised {type(error).__name__}") from error
    if not (isinstance(key, str) and key.isascii() and key.isprintable()):
        raise ConfigError("the function api_key returned what is not a key that a header can carry")
    return key


def _answer_took_s(stopwatch: Stopwatch) -> float | None:
    """How long the last attempt's answer took to bring something, if it did."""
    first_ns = stopwatch.token_ns[0] if stopwatch.token_ns else stopwatch.first_byte_ns
    if first_ns is None or not stopwatch.attempts:
        return None
    return (first_ns - stopwatch.attempts[-1].sent_ns) / 1e9
