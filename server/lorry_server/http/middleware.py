"""What happens to every HTTP request before a route sees it: identity, limits, keys, and a log.

Decisions are made on `scope["path"]`, which is what routing uses: a URL put together from headers
can be forged.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Sequence
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lorry_server.errors import RequestError
from lorry_server.http.errors import error_response, wire_error
from lorry_server.http.keys import UNAUTHORIZED, KeyRing
from lorry_server.http.limited_body import LimitedBody, too_large
from lorry_server.http.request_record import RequestRecord
from lorry_server.http.turnstile import Turnstile

logger = structlog.get_logger(__name__)

REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
OPEN_PATHS = frozenset({"/health/live", "/health/ready"})
BODY_METHODS = frozenset({"POST", "PUT", "PATCH"})
MAX_LOGGED_PATH_CHARS = 256


class RequestLogMiddleware:
    """Names the request, answers what nobody else caught, and writes one record at its end."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._turnstile = Turnstile()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = RequestRecord(request_id=request_id(Headers(scope=scope)))
        if scope["path"] not in OPEN_PATHS:
            await self._turnstile.go_through()
        status: int | None = None

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = record.request_id
            await send(message)

        try:
            await self.app(record.put_in(scope), receive, send_named)
            await self._turnstile.go_through()
        except Exception as exc:
            # The outermost frame of ours: the cause is for the log, the client gets our words.
            logger.exception("request failed", request_id=record.request_id)
            record.error = type(exc).__name__
            if status is None:
                response = error_response(wire_error(exc), scope["path"])
                await response(scope, receive, send_named)
        finally:
            log_request(record, scope, status=status)


def request_id(headers: Headers) -> str:
    """Return the client's id when it is one that may stand in headers and logs, else a new one."""
    given = headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


def log_request(record: RequestRecord, scope: Scope, *, status: int | None) -> None:
    fields: dict[str, Any] = {
        "request_id": record.request_id,
        "method": scope["method"][:16],
        "path": scope["path"][:MAX_LOGGED_PATH_CHARS],
        "status": status,
        "total_ms": round((time.perf_counter() - record.arrival_s) * 1000, 3),
    }
    if record.num_sequences:
        fields |= {
            "model": record.model,
            "adapter": record.adapter,
            "stream": record.is_streamed,
            "sequences": record.num_sequences,
            "prompt_tokens": record.num_prompt_tokens,
            "completion_tokens": record.num_completion_tokens,
            "finish_reason": record.finish_reason,
        }
    if record.timings is not None:
        fields |= {
            "queue_ms": record.timings.queue_ms,
            "prefill_ms": record.timings.prefill_ms,
            "decode_ms": record.timings.decode_ms,
            "cached_tokens": record.timings.cached_tokens,
            "preemptions": record.timings.preemptions,
        }
    if record.error is not None:
        fields["error"] = record.error
    if record.is_replayed:
        fields["replayed"] = True
    if record.is_abandoned:
        fields["abandoned"] = True
    logger.info("request", **fields)


class ApiKeyMiddleware:
    """Lets through who sends `Authorization: Bearer <one of the keys>`.

    Every path needs a key, also those that do not exist, but for `OPEN_PATHS`.
    """

    def __init__(self, app: ASGIApp, *, api_keys: Sequence[str]) -> None:
        self.app = app
        self._keys = KeyRing(api_keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] == "http"
            and scope["path"] not in OPEN_PATHS
            and not self._keys.opens_for(scope["headers"])
        ):
            response = error_response(UNAUTHORIZED, scope["path"])
            await response(scope, receive, send)
            return
        await self.app(scope, receive, send)


class BodyLimitMiddleware:
    """Refuses bodies by what their headers say, and cuts those that say nothing at the limit."""

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, max_headers: int) -> None:
        self.app = app
        self._max_body_bytes = max_body_bytes
        self._max_headers = max_headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = LimitedBody(receive, send, max_bytes=self._max_body_bytes)
        try:
            self._check_headers(scope)
        except RequestError as exc:
            response = error_response(wire_error(exc), scope["path"])
            await response(scope, body.receive, body.send)
            return
        # Only a body whose length was not said can still turn out to be too long.
        is_chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
        await self.app(scope, body.receive, body.send if is_chunked else send)

    def _check_headers(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if len(scope["headers"]) > self._max_headers:
            raise RequestError(
                f"a request may have at most {self._max_headers} headers", status=431
            )
        length = headers.get("content-length")
        if length is not None and "transfer-encoding" in headers:
            raise RequestError("content-length and transfer-encoding exclude each other")
        if length is not None and not (length.isascii() and length.isdecimal()):
            raise RequestError("content-length must be a number")
        if length is not None and int(length) > self._max_body_bytes:
            raise too_large(self._max_body_bytes)
        if scope["method"] in BODY_METHODS:
            check_content(headers)


def check_content(headers: Headers) -> None:
    """Only plain JSON: a browser sends other types to any host without asking first."""
    types = headers.getlist("content-type")
    media_type, *parameters = types[0].lower().split(";") if len(types) == 1 else [""]
    if media_type.strip() != "application/json":
        raise RequestError(
            "the body must be JSON, with one header `content-type: application/json`", status=415
        )
    for parameter in parameters:
        name, _, charset = parameter.partition("=")
        if name.strip() == "charset" and charset.strip(' "') not in ("utf-8", "utf8"):
            raise RequestError("JSON is always in UTF-8; leave `charset` out", status=415)
    encodings = headers.getlist("content-encoding")
    if any(encoding.strip().lower() != "identity" for encoding in encodings):
        raise RequestError(
            "compressed bodies are not taken; leave `content-encoding` out", status=415
        )
