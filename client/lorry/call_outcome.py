"""What a call ends with when it does not end well: the words, for whoever waits in whatever way."""

from __future__ import annotations

from collections.abc import Sequence

from lorry.errors import (
    ClientError,
    ConnectError,
    ConnectionLost,
    DeadlineExceeded,
    NotRetried,
    Phase,
    RetriesExhausted,
    StreamCancelled,
    StreamProtocolError,
    StreamTruncated,
)
from lorry.timing import AttemptTiming

_WAITING_FOR: dict[Phase, str] = {
    "queue": "waiting to send the request",
    "connect": "connecting",
    "headers": "waiting for the answer to begin",
    "first_token": "waiting for the first token",
    "idle": "waiting for the next bytes of the stream",
    "total": "receiving the answer",
}


_WHY_NOT_AGAIN: dict[NotRetried, str] = {
    "budget": "not sent again: the retry budget of the server is spent",
    "deadline": "not sent again: the deadline is too near for another attempt",
    "retry_after": "not sent again: the server wants to be left alone for too long",
}


def too_late(phase: Phase, limit_s: float) -> DeadlineExceeded:
    """The error of a limit of time that was passed in a phase."""
    return DeadlineExceeded(
        f"{limit_s:g} s ran out while {_WAITING_FOR[phase]}", phase=phase, limit_s=limit_s
    )


def cancelled(reason: str) -> StreamCancelled:
    """The error of a stream that was cancelled, for a reason if there is one to give."""
    because = f": {reason}" if reason else ""
    return StreamCancelled(f"the stream was cancelled{because}")


def unasked_encoding(encoding: str | None) -> StreamProtocolError:
    """The error of a body that is packed in a way that this client does not read."""
    return StreamProtocolError(f"the answer is {encoding} encoded, which was not asked for")


def not_a_stream(content_type: str) -> StreamProtocolError:
    """The error of an answer that is whole although a stream was asked for."""
    return StreamProtocolError(
        f"the server answered a stream with content type {content_type!r} instead of "
        "'text/event-stream'"
    )


def unfinished() -> StreamTruncated:
    """The error of a stream that ends in order, but before its end."""
    return StreamTruncated("the stream ended without a finish reason and without [DONE]")


def note_call(
    failure: ClientError, *, request_id: str, endpoint: str, adapter: str | None, num_attempts: int
) -> None:
    """Write on an error which call it is of, and how often that had been sent."""
    failure.request_id = request_id
    failure.endpoint = endpoint
    failure.adapter = adapter
    failure.attempts = num_attempts


def ended_idle(failure: ClientError, attempts: Sequence[AttemptTiming]) -> bool:
    """Whether the last attempt's connection was an earlier call's, and ended before the answer began.

    Servers close idle connections, and the request may have crossed with that.
    """
    return (
        isinstance(failure, ConnectionLost)
        and attempts[-1].headers_ns is None
        and attempts[-1].reused_connection is True
    )


def _refusals_of(late: ClientError, failures: list[ClientError]) -> list[ClientError]:
    """How the server that was being connected to when time ran out had answered before."""
    if not (isinstance(late, DeadlineExceeded) and late.phase == "connect"):
        return []
    return [
        failure
        for failure in failures
        if isinstance(failure, ConnectError) and failure.endpoint == late.endpoint
    ]


def concluded(failures: list[ClientError], reason: NotRetried | None) -> ClientError:
    """The one error that stands for all attempts.

    Time that ran out is called that, whatever went wrong before. A connection that was refused is
    not: the last attempt may have had no time left to be refused in.
    """
    last = error = failures[-1]
    refusals = _refusals_of(last, failures)
    if refusals:
        error, reason = refusals[-1], "deadline"
        error.causes = tuple(failure for failure in failures if failure is not error)
    elif (
        isinstance(last, (DeadlineExceeded, StreamCancelled))
        or len({type(failure) for failure in failures}) == 1
    ):
        last.causes = tuple(failures[:-1])
    else:
        error = RetriesExhausted(
            f"{len(failures)} attempts failed, the last with: {last}", causes=tuple(failures)
        )
    error.not_retried = reason
    note = None if reason is None else _WHY_NOT_AGAIN.get(reason)
    if note is not None:
        error.add_note(note)
    return error
