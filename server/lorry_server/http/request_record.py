"""`RequestRecord`: what the log will say about one HTTP request."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from lorry.types.common import Timings
from lorry_server.http.deadline import Deadline

_SCOPE_KEY = "lorry.record"


@dataclass(slots=True)
class RequestRecord:
    """Made when the request arrives, filled in by whoever learns something, logged at its end."""

    request_id: str
    arrival_s: float = field(default_factory=time.perf_counter)
    model: str | None = None
    adapter: str | None = None
    is_streamed: bool = False
    num_sequences: int = 0
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    finish_reason: str | None = None
    timings: Timings | None = None
    deadline: Deadline | None = None
    submitted_s: float | None = None  # when the engine was given it
    adapter_load_ms: float = 0.0  # that it waited for
    is_replayed: bool = False  # answered with what another request with its key was answered
    error: str | None = None
    is_abandoned: bool = False  # the client left before its answer was complete

    @property
    def engine_deadline_s(self) -> float | None:
        """After which the engine computes nothing more for the request, on the clock of `arrival_s`."""
        return None if self.deadline is None or self.deadline.is_lifted else self.deadline.at_s

    @classmethod
    def of(cls, request: Request) -> RequestRecord:
        """Return the record that the middleware made for `request`."""
        return cls.in_scope(request.scope)

    @classmethod
    def in_scope(cls, scope: Mapping[str, Any]) -> RequestRecord:
        """The same, for who has the scope alone."""
        record = scope[_SCOPE_KEY]
        assert isinstance(record, RequestRecord)
        return record

    def put_in(self, scope: Mapping[str, Any]) -> dict[str, Any]:
        """Return `scope` with this record in it."""
        return {**scope, _SCOPE_KEY: self}
