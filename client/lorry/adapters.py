"""`client.adapters`: which adapters a server has, and loading, replacing and unloading them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from lorry.adapter_report import AdapterCards
from lorry.asking_again import pauses_s
from lorry.errors import (
    AdapterExists,
    AdapterInvalid,
    AdapterNotFound,
    ConfigError,
    DeadlineExceeded,
)
from lorry.options import as_timeout, resolve
from lorry.session import Session
from lorry.time_left import TimeLeft
from lorry.timeout import Timeout
from lorry.types.adapters import AdapterCard, AdapterList, DeletedAdapter, PutAdapter

ADAPTERS_PATH = "/v1/adapters"

_T = TypeVar("_T")


class Adapters:
    """The server's adapters, as `/v1/adapters` has them.

    A name stands for a version, which is `AdapterCard.digest`. Replacing it moves the name at once;
    requests that run end on the version that they began with.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    async def list(self) -> AdapterCards:
        """One card for each name."""
        answer = await self._fetch("GET", ADAPTERS_PATH, AdapterList)
        return AdapterCards(answer.data)

    async def get(self, name: str) -> AdapterCard:
        """The card of one name; raises AdapterNotFound."""
        return await self._get(name)

    async def load(
        self,
        name: str,
        source: str,
        *,
        pinned: bool = False,
        preload: bool = True,
        replace: bool = False,
        timeout: Timeout | float | None = None,  # noqa: ASYNC109  # so called in every client
    ) -> AdapterCard:
        """Load what lies at `source`, a path or address as the server sees it, under a name.

        A `pinned` adapter is not taken out of memory to make room. Without `preload` it is loaded
        when the first request asks for it. Raises AdapterExists where the name is taken, unless
        `replace` is true. The server is asked for that first: of two callers at the same moment,
        the second replaces. `timeout` is that of both requests together. Raises AdapterInvalid, or
        BadRequest, with the server's sentence for what cannot be loaded.
        """
        limit = TimeLeft(as_timeout(timeout, default=self._session.config.timeout))
        if not replace:
            await self._check_is_free(name, limit.now())
        return await self.replace(name, source, pinned=pinned, preload=preload, timeout=limit.now())

    async def replace(
        self,
        name: str,
        source: str,
        *,
        pinned: bool = False,
        preload: bool = True,
        timeout: Timeout | float | None = None,  # noqa: ASYNC109  # so called in every client
    ) -> AdapterCard:
        """Load `source` and let the name stand for it from then on, whether it was taken or not.

        What has the name now answers until the new one is ready, and keeps it if that fails.
        """
        wanted = PutAdapter(source=source, pinned=pinned, preload=preload)
        return await self._fetch(
            "PUT",
            adapter_path(name),
            AdapterCard,
            adapter=name,
            body=msgspec.json.encode(wanted),
            limits=timeout,
        )

    async def unload(self, name: str) -> None:
        """Take the name away; requests that run on it end. Raises AdapterNotFound."""
        await self._fetch("DELETE", adapter_path(name), DeletedAdapter, adapter=name)

    async def pin(self, name: str) -> AdapterCard:
        """Keep the adapter in memory from now on, whatever else needs room."""
        return await self._set_pinned(name, True)

    async def unpin(self, name: str) -> AdapterCard:
        """Let the adapter make room for others again."""
        return await self._set_pinned(name, False)

    async def wait_ready(
        self,
        name: str,
        timeout: float = 60.0,  # noqa: ASYNC109  # so called in every client
    ) -> AdapterCard:
        """Wait until the adapter is loaded, by asking again and again.

        Raises AdapterInvalid as soon as its load has failed, AdapterNotFound where there is no such
        name, and DeadlineExceeded after `timeout` seconds. Waiting loads nothing: an adapter that
        was put without `preload` waits for its first request.
        """
        card: AdapterCard | None = None
        pauses = pauses_s()
        try:
            async with asyncio.timeout(timeout):
                while True:
                    card = await self.get(name)
                    if card.state == "ready":
                        return card
                    if card.state == "failed":
                        raise AdapterInvalid(
                            f"adapter {name!r} could not be loaded: {card.error or 'no reason given'}"
                        )
                    await asyncio.sleep(next(pauses))
        except TimeoutError:
            state = "not answered for" if card is None else f"still {card.state!r}"
            raise DeadlineExceeded(
                f"adapter {name!r} was not ready within {timeout:g} s: it is {state}",
                phase="total",
                limit_s=timeout,
            ) from None

    async def prefetch(
        self,
        names: Iterable[str],
        *,
        timeout: float = 60.0,  # noqa: ASYNC109  # so called in every client
    ) -> AdapterCards:
        """Have these adapters loaded now, all at once, so that no request waits for one.

        Returns their cards in order, once each is ready, which is to be within `timeout` seconds.
        What is loaded already is left alone. Raises as `get`, `replace` and `wait_ready` do; the
        first failure ends the waiting for the others, which go on loading.
        """
        if isinstance(names, str):
            raise TypeError("names is one string; give a list of names")
        try:
            async with asyncio.TaskGroup() as group:
                loads = [group.create_task(self._load_known(name, timeout)) for name in names]
        except BaseExceptionGroup as failures:
            # a group of one failure and its cancellations would only be in the way
            raise failures.exceptions[0] from None
        return AdapterCards(load.result() for load in loads)

    async def _load_known(self, name: str, timeout_s: float) -> AdapterCard:
        limit = TimeLeft(Timeout(total=timeout_s, connect=self._session.config.timeout.connect))
        card = await self._get(name, limit.now())
        if card.state in ("known", "failed"):
            # the same source under the same name: nothing changes but that it is loaded
            card = await self.replace(name, card.source, pinned=card.pinned, timeout=limit.now())
        if card.state == "ready":
            return card
        return await self.wait_ready(name, limit.now().total or timeout_s)

    async def _check_is_free(self, name: str, limits: Timeout) -> None:
        try:
            card = await self._get(name, limits)
        except AdapterNotFound:
            return
        raise name_is_taken(card)

    async def _get(self, name: str, limits: Timeout | None = None) -> AdapterCard:
        return await self._fetch(
            "GET", adapter_path(name), AdapterCard, adapter=name, limits=limits
        )

    async def _set_pinned(self, name: str, pinned: bool) -> AdapterCard:
        card = await self.get(name)
        return await self.replace(name, card.source, pinned=pinned, preload=card.state != "known")

    async def _fetch(
        self,
        method: str,
        path: str,
        kind: type[_T],
        *,
        adapter: str | None = None,
        body: bytes | None = None,
        limits: Timeout | float | None = None,
    ) -> _T:
        given: dict[str, Any] = {"adapter": adapter, "timeout": limits}
        options = resolve(given, timeout=self._session.config.timeout)
        return await self._session.fetch(method, path, kind, options=options, body=body)


def adapter_path(name: str) -> str:
    """The route of one adapter; raises ConfigError for what cannot be a name."""
    # HTTP libraries fold such segments, and the request would go to another route
    if not name or any(segment in ("", ".", "..") for segment in name.split("/")):
        raise ConfigError(f"{name!r} is not the name of an adapter")
    return f"{ADAPTERS_PATH}/{quote(name, safe='/@')}"


def name_is_taken(card: AdapterCard) -> AdapterExists:
    """Return (not raise) the error for a load under a name that stands for `card`."""
    return AdapterExists(
        f"there is an adapter {card.id!r} already, from {card.source}; "
        "replace=True puts another in its place"
    )
