"""What a repeated idempotency key does: one request is computed, all with its key get its answer.

The first request with a key computes, in the task of its own connection, and everything it sends is
remembered on the way out (`Starter`). One that comes with the same key meanwhile, or after it,
reads what is remembered, from its beginning (`SharedAnswers.follow`). Each has its own deadline,
after which it is told so and counts as one that has left; what is computed ends when all who wait for
it have left. Only complete answers are kept: after an error the next request is computed.
"""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lorry_server.errors import DeadlineExceededError, LorryServerError, RequestError
from lorry_server.http.answer_memory import AnswerMemory, Follower, SharedAnswer
from lorry_server.http.deadline import Deadline, before_deadline
from lorry_server.http.disconnect import unless_disconnected
from lorry_server.http.errors import error_response, is_openai_path, wire_error
from lorry_server.http.idempotency_key import HEADER, IdempotencyKey
from lorry_server.http.request_record import RequestRecord
from lorry_server.http.sse import lorax_error_event, openai_error_event
from lorry_server.metrics import Metrics

REPLAYED = (b"idempotent-replayed", b"true")


class JoinedRequestFailed(LorryServerError):
    """The request that this one waited for has ended without any answer."""


class SharedAnswers:
    """Computes, or finds what was computed for the same key."""

    def __init__(self, memory: AnswerMemory, *, metrics: Metrics, stall_timeout_s: float) -> None:
        self._memory = memory
        self._metrics = metrics
        self._stall_timeout_s = stall_timeout_s

    def find(self, key: IdempotencyKey, fingerprint: bytes) -> SharedAnswer | None:
        """Return the answer to follow; None for a new key.

        Raises `RequestError`: 422 for the key of another request, 409 for one whose answer cannot
        be had any more.
        """
        answer = self._memory.find(key)
        if answer is None:
            return None
        if answer.fingerprint != fingerprint:
            self._metrics.repeated_key("refused")
            raise RequestError(
                f"the `{HEADER}` of this request was sent with another request before; each needs "
                "a key of its own",
                param=HEADER,
                code="idempotency_key_reused",
                status=422,
            )
        if not answer.is_replayable:
            self._metrics.repeated_key("refused")
            doing = "has been answered" if answer.has_ended else "is being answered"
            raise RequestError(
                f"the request with this `{HEADER}` {doing}, and its answer is not kept: it is too "
                "long, or others needed the room. With a new key the request is computed again",
                param=HEADER,
                code="idempotency_conflict",
                status=409,
                error_type="idempotency_conflict",
            )
        return answer

    async def start(
        self,
        app: ASGIApp,
        key: IdempotencyKey,
        fingerprint: bytes,
        body: bytes,
        *,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Let `app` answer a request whose key is new and whose body has been read."""
        record = RequestRecord.in_scope(scope)
        answer = self._memory.begin(key, fingerprint, deadline=record.deadline)
        starter = Starter(
            self._memory,
            answer,
            body,
            scope=scope,
            receive=receive,
            send=send,
            metrics=self._metrics,
            stall_timeout_s=self._stall_timeout_s,
        )
        try:
            await app(scope, starter.receive, starter.send)
        finally:
            is_good = answer.status == 200 and record.error is None and not record.is_abandoned
            if is_good and answer.is_complete:
                self._memory.keep(answer)
            else:
                self._memory.forget(answer)
            await starter.close()

    async def follow(
        self, answer: SharedAnswer, *, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send `answer` from its beginning, and what is still to come as it comes."""
        record = RequestRecord.in_scope(scope)
        record.is_replayed = True
        self._metrics.repeated_key("kept" if answer.has_ended else "joined")
        with answer.followed() as follower:
            async with self._before_deadline(record):
                await unless_disconnected(receive, has_head(answer))
            if answer.status is None:
                raise JoinedRequestFailed("the request that had this key first has failed")
            try:
                await unless_disconnected(
                    receive, self._send_all(answer, follower, send, scope=scope)
                )
            except (ClientDisconnect, TimeoutError):
                # It has left, or takes nothing: then its connection is closed in the middle.
                record.is_abandoned = True

    def _before_deadline(
        self, record: RequestRecord
    ) -> contextlib.AbstractAsyncContextManager[None]:
        return before_deadline(record.deadline, metrics=self._metrics, phase="joined")

    async def _send_all(
        self, answer: SharedAnswer, follower: Follower, send: Send, *, scope: Scope
    ) -> None:
        await self._send(
            send,
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [*answer.headers, REPLAYED],
            },
        )
        if not answer.is_stream:  # its body comes with its head
            await self._send_body(answer, follower, send)
            return
        record = RequestRecord.in_scope(scope)
        try:
            async with self._before_deadline(record):
                await self._send_body(answer, follower, send)
        except DeadlineExceededError as exc:
            record.error = str(exc)
            await self._send(send, last_event(exc, scope))

    async def _send_body(self, answer: SharedAnswer, follower: Follower, send: Send) -> None:
        while True:
            while (chunk := answer.next_chunk(follower)) is not None:
                is_last = answer.is_read_by(follower)
                message = {"type": "http.response.body", "body": chunk, "more_body": not is_last}
                await self._send(send, message)
            if answer.has_ended or answer.is_complete:
                return
            await answer.change()

    async def _send(self, send: Send, message: Message) -> None:
        async with asyncio.timeout(self._stall_timeout_s):
            await send(message)


def last_event(error: Exception, scope: Scope) -> Message:
    """End a stream that has begun with `error`."""
    write = openai_error_event if is_openai_path(scope["path"]) else lorax_error_event
    return {"type": "http.response.body", "body": write(error), "more_body": False}


async def has_head(answer: SharedAnswer) -> None:
    """Return when the answer has begun, or will not."""
    while answer.status is None and not answer.has_ended:
        await answer.change()


class Starter:
    """The connection of the request that computes: what it sends is remembered on the way.

    To the application the client leaves when the last of all who want the answer has left. What
    is sent to a client that has left is lost, as it always is. As long as nobody has joined, the
    application keeps to the client's deadline; from then on this does.
    """

    def __init__(
        self,
        memory: AnswerMemory,
        answer: SharedAnswer,
        body: bytes,
        *,
        scope: Scope,
        receive: Receive,
        send: Send,
        metrics: Metrics,
        stall_timeout_s: float,
    ) -> None:
        self._memory = memory
        self._answer = answer
        self._body: bytes | None = body
        self._scope = scope
        self._receive = receive
        self._send = send
        self._metrics = metrics
        self._stall_timeout_s = stall_timeout_s
        self._has_left = False
        self._has_expired = False
        self._sending = asyncio.Lock()
        self._expiry: asyncio.TimerHandle | None = None
        self._expiring: asyncio.Task[None] | None = None
        if answer.deadline is not None:
            answer.deadline.when_lifted(partial(self._keep_to, answer.deadline))

    async def close(self) -> None:
        """Nothing more will be sent."""
        if self._expiry is not None:
            self._expiry.cancel()
        if self._expiring is not None:
            await self._expiring

    async def receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        if not self._has_left:
            message = await self._receive()
            if message["type"] != "http.disconnect":
                return message
            self._has_left = True
        answer = self._answer
        while answer.num_followers and not answer.is_complete:
            await answer.change()
        if not answer.is_complete:
            # From here on nobody can join any more: it is about to be aborted.
            self._memory.forget(answer)
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._memory.add_head(self._answer, message["status"], list(message["headers"]))
        elif message["type"] == "http.response.body":
            self._memory.add_chunk(
                self._answer,
                message.get("body", b""),
                is_last=not message.get("more_body", False),
            )
        async with self._sending:
            if not self._has_expired:
                await self._send(message)

    def _keep_to(self, deadline: Deadline) -> None:
        self._expiry = asyncio.get_running_loop().call_later(
            deadline.remaining_s, self._begin_to_expire
        )

    def _begin_to_expire(self) -> None:
        self._expiring = asyncio.ensure_future(self._expire())

    async def _expire(self) -> None:
        """Tell the client that its time is over; the others' answer goes on."""
        answer = self._answer
        async with self._sending:
            if answer.has_ended or answer.is_complete or (answer.status and not answer.is_stream):
                return  # it has been answered
            self._has_expired = self._has_left = True
            self._metrics.past_deadline("joined")
            error = DeadlineExceededError("joined")
            with contextlib.suppress(TimeoutError):  # it takes nothing
                async with asyncio.timeout(self._stall_timeout_s):
                    if answer.status is None:
                        response = error_response(wire_error(error), self._scope["path"])
                        await response(self._scope, self._receive, self._send)
                    else:
                        await self._send(last_event(error, self._scope))
