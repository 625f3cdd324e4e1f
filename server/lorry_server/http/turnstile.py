"""`Turnstile`: lets one task through per iteration of the event loop.

An iteration runs everything that is ready before it looks at timers and sockets again. Requests
that arrive together, or end together with a step, would be one long iteration, and every stream and
health check would wait for its end.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Turnstile:
    """A line for stretches of work that begin in bursts; it belongs to one event loop."""

    def __init__(self) -> None:
        self._line: deque[asyncio.Future[None]] = deque()
        self._is_taken = False  # somebody has gone through in this iteration

    async def go_through(self) -> None:
        """Return at once if nobody has been let through in this iteration, else in turn.

        What the caller does before it next waits is what the iteration is given to.
        """
        loop = asyncio.get_running_loop()
        if self._is_taken:
            turn = loop.create_future()
            self._line.append(turn)
            await turn
        else:
            self._is_taken = True
            loop.call_soon(self._let_next_through)

    def _let_next_through(self) -> None:
        while self._line:
            turn = self._line.popleft()
            if not turn.done():  # who waited may have been cancelled
                turn.set_result(None)
                # The task runs in the iteration after this one, and so does this call.
                turn.get_loop().call_soon(self._let_next_through)
                return
        self._is_taken = False
