"""The start and end of an ASGI application: its `lifespan`, run in a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from lorry.errors import ConnectError

Message: TypeAlias = MutableMapping[str, Any]
Application: TypeAlias = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]
VERSIONS = {"version": "3.0", "spec_version": "2.4"}


class Lifespan:
    """Starts the application when it is made; `state` is what it shares with its requests.

    An application that raises instead of taking part in the protocol has no start or end of its
    own, which the specification allows.
    """

    def __init__(self, app: Application) -> None:
        self.state: dict[str, Any] = {}
        self._app = app
        self._settled = asyncio.Event()
        self._is_started = False
        self._failure: str | None = None
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._inbox.put_nowait({"type": "lifespan.startup"})
        self._task = asyncio.create_task(self._run())

    async def started(self) -> None:
        """Return when requests may come; raises ConnectError if the application did not start."""
        if not self._settled.is_set():
            await self._settled.wait()
        if self._failure is not None and not self._is_started:
            raise ConnectError(f"the application did not start: {self._failure}")

    async def stop(self) -> None:
        """Let the application end; raises RuntimeError with what it says if that fails."""
        if self._is_started:
            self._inbox.put_nowait({"type": "lifespan.shutdown"})
        else:
            self._task.cancel()
        await asyncio.wait({self._task})
        if self._is_started and self._failure is not None:
            raise RuntimeError(f"the application did not end well: {self._failure}")

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": VERSIONS, "state": self.state}
        try:
            await self._app(scope, self._inbox.get, self._send)
        except Exception as error:
            if self._is_started and self._failure is None:
                self._failure = f"{type(error).__name__}: {error}"
        finally:
            self._settled.set()

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "lifespan.startup.complete":
            self._is_started = True
        elif kind in ("lifespan.startup.failed", "lifespan.shutdown.failed"):
            self._failure = message.get("message") or "it gave no reason"
        elif kind != "lifespan.shutdown.complete":
            raise ValueError(f"{kind!r} is no message of a lifespan")
        self._settled.set()
