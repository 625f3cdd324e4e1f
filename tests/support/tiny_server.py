"""A whole server on a random tiny model, where only its address matters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.tiny_model import write_tiny_model
from tests.support.whole_server import whole_server


@asynccontextmanager
async def tiny_server(folder: Path, *flags: str) -> AsyncIterator[str]:
    """Write a model into `folder` and serve it with `flags` of `lorry serve`; yield the base URL."""
    async with whole_server(
        write_tiny_model(folder), "--served-model-name", folder.name, *flags
    ) as server:
        yield server.base_url
