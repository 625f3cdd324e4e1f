"""A response that aiohttp reads: what is the same whoever made its connection."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping

import aiohttp

from lorry.transports.aiohttp_errors import lost


class AiohttpResponse(ABC):
    """A response whose body is read in whatever pieces the socket gave."""

    __slots__ = ("_content", "headers", "status")

    def __init__(
        self, status: int, headers: Mapping[str, str], content: aiohttp.StreamReader
    ) -> None:
        self.status = status
        self.headers = headers
        self._content = content

    @property
    def at_end(self) -> bool:
        return self._content.at_eof()

    def read_nowait(self) -> bytes:
        try:
            return self._content.read_nowait()
        except (aiohttp.ClientError, OSError) as error:
            raise lost(error) from error

    async def read_some(self) -> bytes:
        try:
            return await self._content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise lost(error) from error

    @abstractmethod
    def abort(self) -> None: ...

    async def aclose(self) -> None:
        if not self._content.at_eof():
            self.abort()
            # the loop closes an aborted socket in its next turn
            await asyncio.sleep(0)
