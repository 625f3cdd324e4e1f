"""What a repeated idempotency key does: one request is computed, all with its key get its answer.

The first request with a key computes, in the task of its own connection, and everything it sends is
remembered on the way out (`Starter`). One that comes with the same key meanwhile, or after it,
reads what is remembered, from its beginning (`SharedAnswers.follow`). What is computed ends when all
who wait for it have left. Only complete answers are kept: after an error the next request is
computed.
"""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lorry_server.errors import LorryServerError, RequestError
from lorry_server.http.answer_memory import AnswerMemory, Follower, SharedAnswer
from lorry_server.http.deadline import before_deadline
from lorry_server.http.disconnect import unless_disconnected
from lorry_server.http.idempotency_key import HEADER, IdempotencyKey
from lorry_server.http.request_record import RequestRecord
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
        answer = self._memory.begin(key, fingerprint)
        starter = Starter(self._memory, answer, body, receive=receive, send=send)
        record = RequestRecord.in_scope(scope)
        try:
            await app(scope, starter.receive, starter.send)
        finally:
            is_good = answer.status == 200 and record.error is None and not record.is_abandoned
            if is_good and answer.is_complete:
                self._memory.keep(answer)
            else:
                self._memory.forget(answer)

    async def follow(
        self, answer: SharedAnswer, *, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Send `answer` from its beginning, and what is still to come as it comes."""
        record = RequestRecord.in_scope(scope)
        record.is_replayed = True
        self._metrics.repeated_key("kept" if answer.has_ended else "joined")
        with answer.followed() as follower:
            async with before_deadline(record, metrics=self._metrics, phase="joined"):
                await unless_disconnected(receive, has_head(answer))
            if answer.status is None:
                raise JoinedRequestFailed("the request that had this key first has failed")
            try:
                await unless_disconnected(receive, self._send_all(answer, follower, send))
            except (ClientDisconnect, TimeoutError):
                # It has left, or takes nothing: then its connection is closed in the middle.
                record.is_abandoned = True

    async def _send_all(self, answer: SharedAnswer, follower: Follower, send: Send) -> None:
        await self._send(
            send,
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [*answer.headers, REPLAYED],
            },
        )
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


async def has_head(answer: SharedAnswer) -> None:
    """Return when the answer has begun, or will not."""
    while answer.status is None and not answer.has_ended:
        await answer.change()


class Starter:
    """The connection of the request that computes: what it sends is remembered on the way.

    To the application the client leaves when the last of all who want the answer has left. What
    is sent to a client that has left is lost, as it always is.
    """

    def __init__(
        self,
        memory: AnswerMemory,
        answer: SharedAnswer,
        body: bytes,
        *,
        receive: Receive,
        send: Send,
    ) -> None:
        self._memory = memory
        self._answer = answer
        self._body: bytes | None = body
        self._receive = receive
        self._send = send
        self._has_left = False

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
        await self._send(message)
