"""What a study ran on: versions of what the client consists of, and what the server says of itself."""

from __future__ import annotations

import asyncio
import platform
from typing import Any

from lorry._version import __version__
from lorry.errors import HTTPStatusError, StreamProtocolError
from lorry.options import resolve
from lorry.session import Session

_PACKAGES = ("aiohttp", "httpx", "httpx2", "msgspec", "uvloop")


def describe_client() -> dict[str, Any]:
    """The client's side."""
    # slow to import, and few who import lorry make a study
    from importlib.metadata import PackageNotFoundError, version

    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue  # an extra that is not installed
    return {
        "lorry": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "event_loop": type(asyncio.get_running_loop()).__module__,
        "packages": packages,
    }


async def describe_servers(session: Session) -> dict[str, Any]:
    """What each server says of itself, by its address."""
    return {url: await _describe_server(session.at(url)) for url in session.endpoints}


async def _describe_server(session: Session) -> dict[str, Any] | None:
    """The answer of `/info`; None from a server that has none."""
    options = resolve({}, timeout=session.config.timeout)
    try:
        return await session.fetch("GET", "/info", dict[str, Any], options=options)
    except (HTTPStatusError, StreamProtocolError):
        return None
