"""What a call ends with when it does not end well: the words, for whoever waits in whatever way."""

from __future__ import annotations

from lorry.errors import ClientError, DeadlineExceeded, Phase, RetriesExhausted, StreamCancelled

_WAITING_FOR: dict[Phase, str] = {
    "queue": "waiting to send the request",
    "connect": "connecting",
    "headers": "waiting for the answer to begin",
    "first_token": "waiting for the first token",
    "idle": "waiting for the next bytes of the stream",
    "total": "receiving the answer",
}


def too_late(phase: Phase, limit_s: float) -> DeadlineExceeded:
    """The error of a limit of time that was passed in a phase."""
    return DeadlineExceeded(
        f"{limit_s:g} s ran out while {_WAITING_FOR[phase]}", phase=phase, limit_s=limit_s
    )


def cancelled(reason: str) -> str:
    """The sentence of a cancelled stream."""
    return f"the stream was cancelled: {reason}" if reason else "the stream was cancelled"


def concluded(failures: list[ClientError]) -> ClientError:
    """The one error that stands for all attempts.

    Time that ran out, and a call that was ended, are called that whatever went wrong before.
    """
    last = failures[-1]
    is_the_end = isinstance(last, (DeadlineExceeded, StreamCancelled))
    if is_the_end or len({type(failure) for failure in failures}) == 1:
        return last
    return RetriesExhausted(
        f"{len(failures)} attempts failed, the last with: {last}", causes=tuple(failures)
    )
