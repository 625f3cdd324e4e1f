"""A live server for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.support.compat_server import CompatServer, compat_server


@pytest_asyncio.fixture
async def server() -> AsyncIterator[CompatServer]:
    async with compat_server() as running:
        yield running
