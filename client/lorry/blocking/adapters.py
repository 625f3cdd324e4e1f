"""`client.adapters` for blocking code: what a server has, loading and unloading it."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from lorry.adapter_report import AdapterCards
from lorry.adapters import ADAPTERS_PATH, adapter_path, name_is_taken
from lorry.blocking.session import BlockingSession
from lorry.errors import AdapterNotFound
from lorry.options import as_timeout, resolve
from lorry.time_left import TimeLeft
from lorry.timeout import Timeout
from lorry.types.adapters import AdapterCard, AdapterList, DeletedAdapter, PutAdapter

_T = TypeVar("_T")


class BlockingAdapters:
    """The server's adapters, as `lorry.AsyncClient.adapters` has them; the rest is there."""

    def __init__(self, session: BlockingSession) -> None:
        self._session = session

    def list(self) -> AdapterCards:
        """One card for each name."""
        return AdapterCards(self._fetch("GET", ADAPTERS_PATH, AdapterList).data)

    def get(self, name: str) -> AdapterCard:
        """The card of one name; raises AdapterNotFound."""
        return self._get(name)

    def load(
        self,
        name: str,
        source: str,
        *,
        pinned: bool = False,
        preload: bool = True,
        replace: bool = False,
        timeout: Timeout | float | None = None,
    ) -> AdapterCard:
        """Load what lies at `source`, as the server sees it, under a name.

        `timeout` is that of both requests together. Raises AdapterExists where the name is taken,
        unless `replace` is true; AdapterInvalid or BadRequest for what cannot be loaded.
        """
        limit = TimeLeft(as_timeout(timeout, default=self._session.config.timeout))
        if not replace:
            self._check_is_free(name, limit.now())
        return self._fetch(
            "PUT",
            adapter_path(name),
            AdapterCard,
            adapter=name,
            body=msgspec.json.encode(PutAdapter(source=source, pinned=pinned, preload=preload)),
            timeout=limit.now(),
        )

    def unload(self, name: str) -> None:
        """Take the name away; requests that run on it end. Raises AdapterNotFound."""
        self._fetch("DELETE", adapter_path(name), DeletedAdapter, adapter=name)

    def _check_is_free(self, name: str, limits: Timeout) -> None:
        try:
            card = self._get(name, limits)
        except AdapterNotFound:
            return
        raise name_is_taken(card)

    def _get(self, name: str, limits: Timeout | None = None) -> AdapterCard:
        return self._fetch("GET", adapter_path(name), AdapterCard, adapter=name, timeout=limits)

    def _fetch(
        self,
        method: str,
        path: str,
        kind: type[_T],
        *,
        adapter: str | None = None,
        body: bytes | None = None,
        timeout: Timeout | float | None = None,
    ) -> _T:
        given: dict[str, Any] = {"adapter": adapter, "timeout": timeout}
        options = resolve(given, timeout=self._session.config.timeout)
        return self._session.fetch(method, path, kind, options=options, body=body)
