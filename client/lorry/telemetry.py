"""The seam for telemetry: what is told of every call of a model, whatever it makes of that.

`lorry.otel` is the one implementation here; nothing in this module needs its library.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from lorry.generation import Generation
from lorry.options import CallOptions

if TYPE_CHECKING:
    from lorry.classify import Classified
    from lorry.embeddings import Embeddings

Result: TypeAlias = "Generation | Embeddings | Classified[Any]"

_Result = TypeVar("_Result", bound=Result)


class Observation(Protocol):
    """One call that has begun."""

    def sending(self) -> AbstractContextManager[None]:
        """Entered while the request is sent, in the task that sends it."""
        ...

    def ended(self, result: Result | None, error: BaseException | None) -> None:
        """Called once; `result` is what came, also when there is an error."""
        ...


class Telemetry(Protocol):
    """Told of every call of a model, and asked for headers at every attempt of any call."""

    def begin(
        self, path: str, prompt: Any, options: CallOptions, *, is_streamed: bool
    ) -> Observation: ...

    def add_headers(self, headers: dict[str, str]) -> None:
        """Put what ties the attempt to its trace among its headers."""
        ...


async def observed(observation: Observation, call: Coroutine[Any, Any, _Result]) -> _Result:
    """Make a call that is not streamed, and tell how it ended."""
    try:
        with observation.sending():
            result = await call
    except BaseException as error:
        observation.ended(None, error)
        raise
    observation.ended(result, None)
    return result
