"""What all calls of one client share: settings, servers, retry policy, limiter, transport, counters."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, TypeVar

from lorry.attempts import Call, Outlet
from lorry.balancing import Balancer, EndpointState
from lorry.call_log import CallLog
from lorry.config import ClientConfig
from lorry.errors import ConfigError, StreamProtocolError
from lorry.exchange import Exchange
from lorry.limits.base import Limiter
from lorry.middleware import Middleware
from lorry.options import CallOptions, GenerateOptions, resolve
from lorry.retry import RetryPolicy
from lorry.stats import CallCounters, ClientStats
from lorry.telemetry import Telemetry
from lorry.transports.base import CountsConnections, Transport
from lorry.transports.select import default_transport
from lorry.whole_answer import decoded

if TYPE_CHECKING:
    import ssl

# of a request in UTF-8; what limits on tokens take for a token of the prompt
BYTES_PER_TOKEN = 4

_T = TypeVar("_T")


class Session:
    """Makes exchanges. The default transport is made, and its library imported, when first used.

    `defaults` are options of generations, under those that a call gives itself.
    """

    def __init__(
        self,
        config: ClientConfig,
        *,
        retry: RetryPolicy,
        transport: Transport | None,
        middleware: Sequence[Middleware] = (),
        limiter: Limiter | None = None,
        defaults: Mapping[str, Any] | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.config = config
        self.balancer = Balancer(config.endpoints)
        self.retry = retry
        self.limiter = limiter
        self.defaults: Mapping[str, Any] = defaults or {}
        self._shared = _Shared(transport, ssl_context)
        self._middleware = tuple(middleware)
        self._pinned: EndpointState | None = None  # of a view of one server

    @property
    def transport(self) -> Transport:
        shared = self._shared
        if shared.transport is None:
            with shared.lock:  # loops in several threads have one transport
                shared.transport = shared.transport or default_transport(shared.ssl_context)
        return shared.transport

    @property
    def call_log(self) -> CallLog:
        """The timings of calls that came through `openai`."""
        return self._shared.call_log

    @property
    def telemetry(self) -> Telemetry | None:
        return self._shared.telemetry

    @telemetry.setter
    def telemetry(self, telemetry: Telemetry | None) -> None:
        self._shared.telemetry = telemetry
        self._shared.outlet = None

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The addresses that calls may go to."""
        return tuple(endpoint.url for endpoint in self.config.endpoints)

    def at(self, url: str) -> Self:
        """A view with one of the servers. Raises ConfigError for another."""
        for state in self.balancer.states:
            if state.url == url.rstrip("/").removesuffix("/v1"):
                view = self.view()
                view.config = replace(self.config, endpoints=(state.endpoint,))
                view._pinned = state
                return view
        raise ConfigError(
            f"{url!r} is none of this client's servers, which are {', '.join(self.endpoints)}"
        )

    def view(self) -> Self:
        """The same transport and counters, for a client with other settings to be set on it."""
        return copy.copy(self)

    def resolve(
        self, options: Mapping[str, Any], *, known: type[GenerateOptions] = GenerateOptions
    ) -> CallOptions:
        """The options of one generation, over the defaults; raises as `lorry.options.resolve`."""
        return resolve(options, timeout=self.config.timeout, defaults=self.defaults, known=known)

    def exchange(
        self,
        method: str,
        path: str,
        *,
        options: CallOptions,
        body: bytes | None = None,
        retry: RetryPolicy | None = None,
        accept: str = "application/json",
        headers: Mapping[str, str] | None = None,
        takes_turn: bool = False,
        takes_any_status: bool = False,
        any_server: bool = False,
    ) -> Exchange:
        """An exchange that has not begun.

        With `takes_turn` it waits for the client's limiter. Generations do; questions about the
        server's state do not, since they must be answered while all places are taken.

        With `any_server` the balancer chooses one. Without, the client must have one only: what
        asks for the state of a server, or changes it, is not to reach one of several by chance.
        Raises ConfigError then.
        """
        config = self.config
        if not any_server and len(config.endpoints) > 1:
            raise ConfigError(
                f"{method} {path} is of one server, and this client has several "
                f"({', '.join(self.endpoints)}); say which by client.at(url)"
            )
        all_headers = {**config.headers, "accept": accept}
        if headers is not None:
            all_headers.update(headers)
        call = Call(
            method=method,
            path=path,
            request_id=options.request_id,
            timeout=options.timeout,
            retry=retry or self.retry,
            headers=all_headers,
            body=body,
            adapter=options.adapter,
            make_key=config.make_key,
            num_tokens=0 if self.limiter is None else _num_tokens(body, options),
            takes_any_status=takes_any_status,
            pinned=self._pinned,
        )
        return Exchange(
            call,
            outlet=self._shared.outlet or self._make_outlet(),
            limiter=self.limiter if takes_turn else None,
            counters=self._shared.counters,
        )

    async def fetch(
        self,
        method: str,
        path: str,
        kind: type[_T],
        *,
        options: CallOptions,
        body: bytes | None = None,
        takes_turn: bool = False,
        any_server: bool = False,
    ) -> _T:
        """Send one small request and decode its answer; the flags are those of `exchange`."""
        exchange = self.exchange(
            method,
            path,
            options=options,
            body=body,
            takes_turn=takes_turn,
            any_server=any_server,
        )
        return await answer_to(exchange, kind)

    def stats(self) -> ClientStats:
        """The counters now, and the connections of the running loop if there is one."""
        counters, transport = self._shared.counters, self._shared.transport
        connections = None
        if isinstance(transport, CountsConnections):
            connections = transport.count_connections()
        return ClientStats(
            num_started=counters.num_started,
            num_finished=counters.num_finished,
            num_cancelled=counters.num_cancelled,
            num_failed=dict(counters.num_failed),
            num_retries=counters.num_retries,
            num_in_flight=counters.num_in_flight,
            num_queued=counters.num_queued,
            loop_lag_max=counters.loop_lag_max,
            num_connections_open=None if connections is None else connections.num_open,
            num_connections_idle=None if connections is None else connections.num_idle,
            endpoints=tuple(self.balancer.stats()),
        )

    def _make_outlet(self) -> Outlet:
        outlet = Outlet(self.transport, self.balancer, self._middleware, self.telemetry)
        self._shared.outlet = outlet
        return outlet

    def facts(self) -> list[str]:
        """What a repr says beside the addresses: the limit, and what is going on."""
        counters = self._shared.counters
        facts = [] if self.limiter is None else [f"limit={self.limiter!r}"]
        if counters.num_in_flight:
            facts.append(f"{counters.num_in_flight} in flight")
        if counters.num_queued:
            facts.append(f"{counters.num_queued} queued")
        return facts

    async def aclose(self) -> None:
        if self._shared.transport is not None:
            await self._shared.transport.aclose()


async def answer_to(exchange: Exchange, kind: type[_T]) -> _T:
    """Send a small request that has not begun, and decode its answer. Raises ClientError."""
    await exchange.open()
    answer = await exchange.read_all()
    try:
        return decoded(answer, kind, path=exchange.call.path)
    except StreamProtocolError as error:
        exchange.describe(error)
        raise


def _num_tokens(body: bytes | None, options: CallOptions) -> int:
    """About how many tokens a request takes, its answer included."""
    max_tokens = options.sampling.get("max_tokens")
    num_new_tokens = max_tokens if isinstance(max_tokens, int) else 0
    return len(body or b"") // BYTES_PER_TOKEN + num_new_tokens


class _Shared:
    """What a session and its views have in common, whichever of them makes or changes it."""

    def __init__(self, transport: Transport | None, ssl_context: ssl.SSLContext | None) -> None:
        self.lock = threading.Lock()
        self.transport = transport
        self.ssl_context = ssl_context
        self.counters = CallCounters()
        self.call_log = CallLog()
        self.telemetry: Telemetry | None = None
        self.outlet: Outlet | None = None  # made when first needed, as the transport is
