"""What all calls of one client share: its settings, its retry policy, its transport."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from lorry.config import ClientConfig
from lorry.errors import StreamProtocolError
from lorry.exchange import Call, Exchange
from lorry.options import CallOptions
from lorry.retry import RetryPolicy
from lorry.transports.base import Transport
from lorry.transports.select import default_transport

_T = TypeVar("_T")


class Session:
    """Makes exchanges. The default transport is made, and its library imported, when first used."""

    def __init__(
        self, config: ClientConfig, *, retry: RetryPolicy, transport: Transport | None
    ) -> None:
        self.config = config
        self._retry = retry
        self._transport = transport

    @property
    def transport(self) -> Transport:
        if self._transport is None:
            self._transport = default_transport()
        return self._transport

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
    ) -> Exchange:
        """An exchange that has not begun; `headers` (names in lower case) win over the client's."""
        call = Call(
            method=method,
            base_url=self.config.base_url,
            path=path,
            request_id=options.request_id,
            timeout=options.timeout,
            retry=retry or self._retry,
            headers={**self.config.headers, "accept": accept, **(headers or {})},
            body=body,
            adapter=options.adapter,
            api_key=self.config.api_key,
        )
        return Exchange(call, transport=self.transport)

    async def fetch(
        self,
        method: str,
        path: str,
        kind: type[_T],
        *,
        options: CallOptions,
        body: bytes | None = None,
    ) -> _T:
        """Send one small request and decode its answer."""
        exchange = self.exchange(method, path, options=options, body=body)
        await exchange.open()
        answer = await exchange.read_all()
        try:
            return msgspec.json.decode(answer, type=kind)
        except msgspec.DecodeError as error:
            problem = StreamProtocolError(f"not an answer of {path}: {error}", snippet=answer)
            exchange.describe(problem)
            raise problem from error

    async def aclose(self) -> None:
        if self._transport is not None:
            await self._transport.aclose()
