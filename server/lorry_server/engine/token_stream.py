"""`TokenStream`: what a sequence has produced and its reader has not taken yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from lorry_server.engine.outputs import TokenOutput


class TokenStream:
    """Async iterator over one sequence's outputs, for one reader on one event loop.

    Outputs that wait are merged into one, so a slow reader costs the memory of the tokens it has
    not read and never slows the engine.
    """

    def __init__(self, request_id: str, abort: Callable[[str], None]) -> None:
        self._request_id = request_id
        self._abort = abort
        self._pending: TokenOutput | None = None
        self._has_ended = False  # the last output has been pushed
        self._arrived = asyncio.Event()

    @property
    def request_id(self) -> str:
        return self._request_id

    def push(self, output: TokenOutput) -> None:
        """Add what the engine produced; called on the reader's loop."""
        assert not self._has_ended
        self._has_ended = output.finish_reason is not None
        self._pending = output if self._pending is None else _merge(self._pending, output)
        self._arrived.set()

    def abort(self) -> None:
        if not self._has_ended:
            self._abort(self._request_id)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TokenOutput:
        while self._pending is None:
            if self._has_ended:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        output, self._pending = self._pending, None
        return output

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abort()


def _merge(first: TokenOutput, second: TokenOutput) -> TokenOutput:
    logprobs = None
    if first.logprobs is not None or second.logprobs is not None:
        logprobs = (first.logprobs or ()) + (second.logprobs or ())
    return TokenOutput(
        request_id=first.request_id,
        token_ids=first.token_ids + second.token_ids,
        logprobs=logprobs,
        prompt_logprobs=first.prompt_logprobs or second.prompt_logprobs,
        finish_reason=second.finish_reason,
        stop_token_id=second.stop_token_id,
        error=second.error,
        timings=second.timings,
    )
