"""The seam between calls and HTTP libraries: a request goes in, a response's bytes come out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import msgspec

from lorry.timing import AttemptTiming


class WireRequest(msgspec.Struct, frozen=True, gc=False):
    """One HTTP request. `headers` may hold a key, so neither they nor the body are in the repr."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None = None
    connect_timeout_s: float | None = None

    def replace(self, **changes: Any) -> Self:
        """The same with other values; raises TypeError for what a request does not have."""
        return msgspec.structs.replace(self, **changes)

    def __repr__(self) -> str:
        return f"WireRequest({self.method} {self.url})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("method", self.method), ("url", self.url)]


class WireResponse(Protocol):
    """A response whose headers have come. `headers` are looked up without regard to case.

    Reads raise ConnectionLost when the body is cut short.
    """

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    @property
    def at_end(self) -> bool:
        """Whether the body was read to its end and that is known; else a read tells."""
        ...

    def read_nowait(self) -> bytes:
        """All that has come and was not read, b"" if nothing."""
        ...

    async def read_some(self) -> bytes:
        """At least one byte, as soon as there is one; b"" at the end of the body."""
        ...

    def abort(self) -> None:
        """Close the connection now, without waiting; harmless when it is closed."""
        ...

    async def aclose(self) -> None:
        """Give the connection back if the body was read to its end, else close it for good."""
        ...


@dataclass(frozen=True, slots=True)
class ConnectionCounts:
    """Connections to servers that one event loop has open, and those of them that are not in use."""

    num_open: int
    num_idle: int


@runtime_checkable
class CountsConnections(Protocol):
    """A transport that knows how many connections it has."""

    def count_connections(self) -> ConnectionCounts:
        """Those of the running event loop; none outside of one."""
        ...


@runtime_checkable
class Transport(Protocol):
    """Sends requests. Limits on time are the caller's business but for that on connecting."""

    async def send(self, request: WireRequest, *, attempt: AttemptTiming) -> WireResponse:
        """Return when the response's headers have come; redirects are not followed.

        Fills in of `attempt` what it can observe. Raises ConnectError before the request can have
        reached the server, DeadlineExceeded when connecting took longer than allowed, and
        ConnectionLost after. When cancelled it has closed its connection before it raises.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections that belong to the running event loop."""
        ...
