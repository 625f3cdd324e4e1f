"""How an attempt can end: one word per class of failure."""

from __future__ import annotations

from typing import Literal, get_args

Outcome = Literal[
    "ok",
    "connect",
    "tls",
    "timeout_ttft",
    "timeout_total",
    "stalled",
    "http_429",
    "http_4xx",
    "http_5xx",
    "http_other",
    "sse_malformed",
    "sse_error_event",
    "truncated",
    "wrong_output",
    "abandoned",
    "cancelled",
    "client_overload",
]

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

# One line each, for the ledger of the report.
MEANING: dict[Outcome, str] = {
    "ok": "finish reason and [DONE] received",
    "connect": "no connection, or it was reset before the first byte of the answer",
    "tls": "the TLS handshake failed",
    "timeout_ttft": "no event within the limit for the first one",
    "timeout_total": "not finished within the limit for the whole request",
    "stalled": "the stream paused longer than the limit between two events",
    "http_429": "the server is full (429)",
    "http_4xx": "the server refused the request (4xx)",
    "http_5xx": "the server failed (5xx)",
    "http_other": "an answer that is neither a stream nor an error (1xx, 2xx or 3xx)",
    "sse_malformed": "bytes that are no HTTP, no event stream or no JSON of the schema",
    "sse_error_event": "an error inside the stream, after it had begun with 200",
    "truncated": "the stream ended without a finish reason or without [DONE]",
    "wrong_output": "the text is not the known answer, or the locustfile's check rejected it",
    "abandoned": "the user's patience ended before the answer did",
    "cancelled": "still running when the drain limit stopped the test (censored)",
    "client_overload": "this client had no room for another stream",
}


class AttemptFailed(Exception):
    """An attempt ended with `outcome`; the text says what was seen."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


def outcome_of_status(status: int) -> Outcome:
    """The class of an HTTP status that is not a stream of events."""
    if status == 429:
        return "http_429"
    if 400 <= status < 500:
        return "http_4xx"
    if 500 <= status < 600:
        return "http_5xx"
    return "http_other"
