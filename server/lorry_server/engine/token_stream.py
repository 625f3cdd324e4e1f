"""`TokenStream`: what a sequence has produced and its reader has not taken yet."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from lorry_server.engine.outputs import TokenOutput


class TokenStream:
    """One sequence's outputs, on their way to one reader on one event loop.

    It wakes nobody by itself: the reader's listener decides whether an output is worth a task
    switch, which costs more than anything else that is done for a token. Outputs that wait are
    merged when they are taken, so a slow reader costs the memory of the tokens it has not read
    and never slows the engine.
    """

    def __init__(
        self,
        request_id: str,
        *,
        abort: Callable[[str], None],
        lift_deadline: Callable[[str], None],
    ) -> None:
        self._request_id = request_id
        self._abort = abort
        self._lift_deadline = lift_deadline
        self._pending: list[TokenOutput] = []
        self._has_ended = False  # the last output has been pushed
        self._listener: Callable[[TokenOutput], None] | None = None

    @property
    def request_id(self) -> str:
        return self._request_id

    def push(self, output: TokenOutput) -> None:
        """Add what the engine produced; called on the reader's loop."""
        assert not self._has_ended
        self._has_ended = output.finish_reason is not None
        self._pending.append(output)
        listener = self._listener
        if self._has_ended:
            # The listener knows its reader, which knows this stream: a circle would keep all
            # three until the next garbage collection.
            self._listener = None
        if listener is not None:
            listener(output)

    def listen(self, listener: Callable[[TokenOutput], None]) -> None:
        """See `RequestStream.listen`."""
        for output in self._pending:
            listener(output)
        if not self._has_ended:
            self._listener = listener

    def take(self) -> TokenOutput:
        """See `RequestStream.take`."""
        pending, self._pending = self._pending, []
        return pending[0] if len(pending) == 1 else _merged(pending)

    def abort(self) -> None:
        if not self._has_ended:
            self._abort(self._request_id)

    def lift_deadline(self) -> None:
        """See `RequestStream.lift_deadline`."""
        if not self._has_ended:
            self._lift_deadline(self._request_id)


def _merged(outputs: list[TokenOutput]) -> TokenOutput:
    last = outputs[-1]
    logprobs = None
    if any(output.logprobs is not None for output in outputs):
        logprobs = tuple(chain.from_iterable(output.logprobs or () for output in outputs))
    return TokenOutput(
        request_id=last.request_id,
        token_ids=tuple(chain.from_iterable(output.token_ids for output in outputs)),
        logprobs=logprobs,
        prompt_logprobs=outputs[0].prompt_logprobs,
        finish_reason=last.finish_reason,
        stop_token_id=last.stop_token_id,
        error=last.error,
        timings=last.timings,
    )
