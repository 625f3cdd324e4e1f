"""Middleware: what a caller puts around every attempt, between the retries and the wire."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from lorry.transports.base import WireRequest, WireResponse

CallNext: TypeAlias = Callable[[WireRequest], Awaitable[WireResponse]]
Middleware: TypeAlias = Callable[[WireRequest, CallNext], Awaitable[WireResponse]]


def checked_middleware(given: Sequence[Middleware]) -> tuple[Middleware, ...]:
    """Raises TypeError for what cannot be called."""
    for middleware in given:
        if not callable(middleware):
            raise TypeError(
                f"middleware holds a {type(middleware).__name__}; it must hold functions "
                "`async def m(request, call_next)`"
            )
    return tuple(given)


async def send_through(
    middleware: Sequence[Middleware], request: WireRequest, send: CallNext
) -> WireResponse:
    """Send by way of all, the first of them outermost.

    Each may change what it passes on, answer itself, or call on more than once. Answers that are
    not passed on are closed. What one raises is passed on as it is.
    """
    begun: list[WireResponse] = []

    async def send_and_note(request: WireRequest) -> WireResponse:
        response = await send(request)
        begun.append(response)
        return response

    call_next: CallNext = send_and_note
    for outer in reversed(middleware):
        call_next = _bound(outer, call_next)
    try:
        answer = await call_next(request)
    except BaseException:
        await _close(begun)
        raise
    if answer in begun:  # else it may be wrapped in what came back
        await _close([response for response in begun if response is not answer])
    return answer


async def _close(responses: Sequence[WireResponse]) -> None:
    for response in responses:
        response.abort()
        await response.aclose()


def _bound(middleware: Middleware, call_next: CallNext) -> CallNext:
    async def call(request: WireRequest) -> WireResponse:
        return await middleware(request, call_next)

    return call
