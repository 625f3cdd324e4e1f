"""From a server's error answer to the client's error, for the three bodies that servers send.

OpenAI's `{"error": {"message", "type", "param", "code"}}`, the bare `{"error": "text"}`, and
LoRAX's and TGI's `{"error": "text", "error_type": "name"}`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec

from lorry.errors import (
    AdapterInvalid,
    AdapterLoading,
    AdapterNotFound,
    BadRequest,
    ContextTooLong,
    DeadlineExceeded,
    Forbidden,
    HTTPStatusError,
    Overloaded,
    ServerError,
    ServerStreamError,
    Unauthorized,
)

MAX_BODY_CHARS = 4096

_TOO_LONG_CODES = frozenset({"context_length_exceeded", "context_too_long"})
_NOT_FOUND_CODES = frozenset({"model_not_found", "adapter_not_found", "NotFoundError"})
_INVALID_ADAPTER_CODES = frozenset({"adapter_invalid", "adapter_load_failed"})
_TOO_LONG_TEXTS = (
    "maximum context length",
    "`inputs` tokens + `max_new_tokens` must be",
    "`inputs` must have less than",
)


class ErrorReport(msgspec.Struct, frozen=True):
    """What a server said, whichever way it said it. `type` is LoRAX's `error_type` too."""

    message: str
    type: str | None = None
    param: str | None = None
    code: str | None = None


def read_error_report(body: Any) -> ErrorReport | None:
    """Read the decoded JSON of an error; None if it has the shape of none."""
    if not isinstance(body, dict) or not body.get("error"):
        return None
    error = body["error"]
    if isinstance(error, dict):
        return ErrorReport(
            message=str(error.get("message") or "the server gave no message"),
            type=_text(error.get("type")),
            param=_text(error.get("param")),
            code=_text(error.get("code")),
        )
    return ErrorReport(message=str(error), type=_text(body.get("error_type")))


def status_error(
    status: int, headers: Mapping[str, str], body: bytes, *, secret: str | None = None
) -> HTTPStatusError | DeadlineExceeded:
    """Return (not raise) the error for an answer; `secret` is blotted out of what is kept of it.

    A server that was told how long the call may take, and says that the time is over, may say so a
    moment before the client notices: that is the deadline too.
    """
    text = body.decode("utf-8", "replace")
    if secret:
        text = text.replace(secret, "***")
    text = text[:MAX_BODY_CHARS]
    try:
        report = read_error_report(msgspec.json.decode(text))
    except msgspec.DecodeError:
        report = None
    if report is None:
        report = ErrorReport(message=text.strip() or "the answer has no body")
    if _is_deadline(report):
        late = DeadlineExceeded(f"{report.message} (status {status})", phase="headers")
        late.status, late.body = status, text
        return late
    error_class = _class_of(status, report)
    may_come_again = issubclass(error_class, (Overloaded, AdapterLoading))
    return error_class(
        f"{report.message} (status {status})",
        status=status,
        code=report.code or report.type,
        param=report.param,
        retry_after=retry_after_s(headers),
        retryable=may_come_again and headers.get("x-should-retry", "").lower() != "false",
        body=text,
    )


def carried_key(headers: Mapping[str, str]) -> str | None:
    """The key that a request's headers carry, to be blotted out; their names are in small letters."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    return credentials or scheme or None


def stream_error(report: ErrorReport) -> ServerStreamError | DeadlineExceeded:
    """Return the error for an error event inside a stream."""
    if _is_deadline(report):
        return DeadlineExceeded(report.message, phase="total")
    return ServerStreamError(report.message, code=report.code or report.type)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Read `retry-after-ms`, else `Retry-After` (seconds or an HTTP date); None if neither holds."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None or value is None:
        return seconds
    import email.utils  # a large package for a rare form

    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time())


def _is_deadline(report: ErrorReport) -> bool:
    return "deadline_exceeded" in (report.code, report.type)


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _class_of(status: int, report: ErrorReport) -> type[HTTPStatusError]:
    names = {report.code, report.type}
    if status in (400, 422, 424) and names & _INVALID_ADAPTER_CODES:
        return AdapterInvalid
    if status in (400, 413, 422):
        if names & _TOO_LONG_CODES or any(text in report.message for text in _TOO_LONG_TEXTS):
            return ContextTooLong
        return BadRequest
    if status == 404 and (names & _NOT_FOUND_CODES or report.param == "model"):
        return AdapterNotFound
    if status in (409, 503) and "adapter_loading" in names:
        return AdapterLoading
    if status in (429, 503):
        return Overloaded
    if status == 424 or status >= 500:
        return ServerError
    return {401: Unauthorized, 403: Forbidden}.get(status, HTTPStatusError)
