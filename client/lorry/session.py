"""What all calls of one client share: its settings, its servers, its retry policy, its transport."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Self, TypeVar

import msgspec

from lorry.attempts import Call, Outlet
from lorry.balancing import Balancer, EndpointState
from lorry.config import ClientConfig
from lorry.errors import ConfigError, StreamProtocolError
from lorry.exchange import Exchange
from lorry.middleware import Middleware
from lorry.options import CallOptions
from lorry.retry import RetryPolicy
from lorry.telemetry import Telemetry
from lorry.transports.base import Transport
from lorry.transports.select import default_transport

_T = TypeVar("_T")


class Session:
    """Makes exchanges. The default transport is made, and its library imported, when first used."""

    def __init__(
        self,
        config: ClientConfig,
        *,
        retry: RetryPolicy,
        transport: Transport | None,
        middleware: Sequence[Middleware] = (),
    ) -> None:
        self.config = config
        self.balancer = Balancer(config.endpoints)
        self.telemetry: Telemetry | None = None
        self._retry = retry
        self._shared = _Shared(transport)
        self._middleware = tuple(middleware)
        self._pinned: EndpointState | None = None  # of a view of one server

    @property
    def transport(self) -> Transport:
        if self._shared.transport is None:
            self._shared.transport = default_transport()
        return self._shared.transport

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The addresses that calls may go to."""
        return tuple(endpoint.url for endpoint in self.config.endpoints)

    def at(self, url: str) -> Self:
        """A view of this session with one of its servers. Raises ConfigError for another."""
        for state in self.balancer.states:
            if state.url == url.rstrip("/").removesuffix("/v1"):
                view = copy.copy(self)
                view.config = replace(self.config, endpoints=(state.endpoint,))
                view._pinned = state
                return view
        raise ConfigError(
            f"{url!r} is none of this client's servers, which are {', '.join(self.endpoints)}"
        )

    def exchange(
        self,
        method: str,
        path: str,
        *,
        options: CallOptions,
        body: bytes | None = None,
        retry: RetryPolicy | None = None,
        accept: str = "application/json",
        any_server: bool = False,
    ) -> Exchange:
        """An exchange that has not begun.

        With `any_server` the balancer chooses one. Without, the client must have one only: what
        asks for the state of a server, or changes it, is not to reach one of several by chance.
        Raises ConfigError then.
        """
        if not any_server and len(self.endpoints) > 1:
            raise ConfigError(
                f"{method} {path} is of one server, and this client has several "
                f"({', '.join(self.endpoints)}); say which by client.at(url)"
            )
        call = Call(
            method=method,
            path=path,
            request_id=options.request_id,
            timeout=options.timeout,
            retry=retry or self._retry,
            headers={**self.config.headers, "accept": accept},
            body=body,
            adapter=options.adapter,
            api_key=self.config.api_key,
            pinned=self._pinned,
        )
        outlet = Outlet(self.transport, self.balancer, self._middleware, self.telemetry)
        return Exchange(call, outlet=outlet)

    async def fetch(
        self,
        method: str,
        path: str,
        kind: type[_T],
        *,
        options: CallOptions,
        body: bytes | None = None,
        any_server: bool = False,
    ) -> _T:
        """Send one small request and decode its answer; `any_server` is that of `exchange`."""
        exchange = self.exchange(method, path, options=options, body=body, any_server=any_server)
        await exchange.open()
        answer = await exchange.read_all()
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.DecodeError as error:
            problem = StreamProtocolError(f"not an answer of {path}: {error}", snippet=answer)
            exchange.describe(problem)
            raise problem from error

    async def aclose(self) -> None:
        if self._shared.transport is not None:
            await self._shared.transport.aclose()


class _Shared:
    """What the views of a session have in common and is made late."""

    def __init__(self, transport: Transport | None) -> None:
        self.transport = transport
