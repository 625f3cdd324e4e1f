"""What all calls of one blocking client share: its settings, its retry policy, its connections."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

from lorry.blocking.retry_account import RetryAccount
from lorry.config import ClientConfig
from lorry.errors import StreamProtocolError
from lorry.options import CallOptions
from lorry.retry import RetryPolicy
from lorry.whole_answer import decoded

if TYPE_CHECKING:
    import ssl

    from lorry.blocking.connection import ConnectionPool
    from lorry.blocking.exchange import BlockingExchange

_T = TypeVar("_T")


class BlockingSession:
    """Makes exchanges. `http.client` is imported when the first one is made."""

    def __init__(
        self, config: ClientConfig, *, retry: RetryPolicy, ssl_context: ssl.SSLContext | None
    ) -> None:
        self.config = config
        self._retry = retry
        self._retries = RetryAccount(retry.budget)
        self._ssl_context = ssl_context
        self._pool: ConnectionPool | None = None
        self._lock = threading.Lock()

    def exchange(
        self,
        method: str,
        path: str,
        *,
        options: CallOptions,
        body: bytes | None = None,
        retry: RetryPolicy | None = None,
        accept: str = "application/json",
    ) -> BlockingExchange:
        """An exchange that has not begun."""
        from lorry.blocking.exchange import BlockingCall, BlockingExchange

        call = BlockingCall(
            method=method,
            base_url=self.config.base_url,
            path=path,
            request_id=options.request_id,
            timeout=options.timeout,
            retry=retry or self._retry,
            headers={**self.config.headers, "accept": accept},
            body=body,
            adapter=options.adapter,
        )
        return BlockingExchange(call, self._connections(), self._retries)

    def fetch(
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
        exchange.open()
        answer = exchange.read_all()
        try:
            return decoded(answer, kind, path=path)
        except StreamProtocolError as error:
            exchange.describe(error)
            raise

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()

    def _connections(self) -> ConnectionPool:
        from lorry.blocking.connection import ConnectionPool

        with self._lock:
            if self._pool is None:
                self._pool = ConnectionPool(self.config.base_url, ssl_context=self._ssl_context)
            return self._pool
