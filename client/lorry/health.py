"""Whether a server is there and ready to generate."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from lorry.asking_again import pauses_s
from lorry.errors import ConnectError, ConnectionLost, DeadlineExceeded, HTTPStatusError
from lorry.options import resolve
from lorry.retry import RetryPolicy
from lorry.session import Session

_ONCE = RetryPolicy(max_attempts=1)
# what a server that still starts may do with a question
NOT_THERE_YET = (ConnectError, ConnectionLost, DeadlineExceeded)


@dataclass(frozen=True, slots=True)
class Health:
    """The answer of `/health`; `detail` says why a server is not ready."""

    is_ready: bool
    status: int
    detail: str = ""


async def check_health(session: Session) -> Health:
    """Ask once. A server that answers with an error is not ready; one that is not there raises."""
    options = resolve({}, timeout=session.config.timeout)
    exchange = session.exchange("GET", "/health", options=options, retry=_ONCE)
    try:
        response = await exchange.open()
        await exchange.read_all()
    except HTTPStatusError as error:
        return Health(False, error.status or 0, str(error))
    return Health(True, response.status)


async def wait_until_ready(session: Session, *, timeout_s: float) -> None:
    """Ask until the server is ready, also while it refuses connections because it still starts.

    Of several all are waited for. Raises DeadlineExceeded, which says what stood in the way last.
    """
    url = problem = ""
    pauses = pauses_s()
    try:
        async with asyncio.timeout(timeout_s):
            for url in session.endpoints:
                problem = "it did not answer"
                while (found := await _problem_of(session.at(url))) is not None:
                    problem = found
                    await asyncio.sleep(next(pauses))
    except TimeoutError:
        raise not_ready(url, timeout_s, problem) from None


def not_ready(url: str, timeout_s: float, problem: str) -> DeadlineExceeded:
    """Return (not raise) the error of a wait that ended before the server was ready."""
    return DeadlineExceeded(
        f"{url} was not ready within {timeout_s:g} s: {problem}", phase="total", limit_s=timeout_s
    )


async def _problem_of(session: Session) -> str | None:
    """What stands in the way of one server's work, None if nothing does."""
    try:
        health = await check_health(session)
    except NOT_THERE_YET as error:
        return str(error)
    return None if health.is_ready else health.detail
