"""`GenerationRoute`: what every route that generates does with a request's headers first."""

from __future__ import annotations

import asyncio

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.routing import request_response
from starlette.types import Message, Receive, Scope, Send

from lorry_server.http.deadline import Deadline, before_deadline, read_timeout_ms
from lorry_server.http.idempotency import SharedAnswers
from lorry_server.http.idempotency_key import HEADER, IdempotencyKey, fingerprint, read_key
from lorry_server.http.keys import Endpoint
from lorry_server.http.parsing import MAX_BYTES_ON_LOOP, read_body
from lorry_server.http.request_record import RequestRecord
from lorry_server.http.serving import Serving


class GenerationRoute:
    """An ASGI application around `endpoint`: notes the deadline, and answers a repeated key.

    A request without these headers goes straight on.
    """

    def __init__(self, endpoint: Endpoint, *, serving: Serving, shared: SharedAnswers) -> None:
        self._app = request_response(endpoint)
        self._serving = serving
        self._shared = shared

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope["headers"]
        timeout_ms = read_timeout_ms(headers)
        if timeout_ms is not None:
            record = RequestRecord.in_scope(scope)
            record.deadline = Deadline(record.arrival_s + timeout_ms / 1e3)
        key = read_key(headers)
        if key is None:
            await self._app(scope, receive, send)
        else:
            await self._answer_once(key, scope, receive, _repeating(key, send))

    async def _answer_once(
        self, key: IdempotencyKey, scope: Scope, receive: Receive, send: Send
    ) -> None:
        serving = self._serving
        async with before_deadline(RequestRecord.in_scope(scope).deadline, metrics=serving.metrics):
            body = await read_body(
                Request(scope, receive), timeout_s=serving.settings.body_timeout_s
            )
            name = (scope["method"], scope["path"], body)
            if len(body) > MAX_BYTES_ON_LOOP:
                content = await asyncio.to_thread(fingerprint, *name)
            else:
                content = fingerprint(*name)
        known = self._shared.find(key, content)
        if known is None:
            await self._shared.start(
                self._app, key, content, body, scope=scope, receive=receive, send=send
            )
        else:
            await self._shared.follow(known, scope=scope, receive=receive, send=send)


def _repeating(key: IdempotencyKey, send: Send) -> Send:
    """Put the key into the answer's head, by which a client knows that keys are heeded here."""

    async def send_with_key(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)[HEADER] = key.text
        await send(message)

    return send_with_key
