"""The seam for telemetry: what is told of every generation, whatever it makes of that.

`lorry.otel` is the one implementation here; nothing in this module needs its library.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from lorry.generation import Generation
from lorry.options import CallOptions


class Observation(Protocol):
    """One generation that has begun."""

    def sending(self) -> AbstractContextManager[None]:
        """Entered while the request is sent, in the task that sends it."""
        ...

    def ended(self, result: Generation | None, error: BaseException | None) -> None:
        """Called once; `result` is what came, also when there is an error."""
        ...


class Telemetry(Protocol):
    """Told of every generation of a client, and asked for headers at every attempt."""

    def begin(
        self, path: str, prompt: Any, options: CallOptions, *, is_streamed: bool
    ) -> Observation: ...

    def add_headers(self, headers: dict[str, str]) -> None:
        """Put what ties the attempt to its trace among its headers."""
        ...
