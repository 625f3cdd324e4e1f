"""From what a caller gave as `transport` to a transport, importing only what is in use already."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

from lorry.transports.base import Transport

if TYPE_CHECKING:
    import ssl

    import aiohttp
    import httpx
    import httpx2

TransportLike: TypeAlias = (
    "Transport | httpx.AsyncClient | httpx2.AsyncClient | aiohttp.ClientSession"
)


def as_transport(given: Any) -> Transport:
    """Wrap an HTTP client; pass a transport through. Raises TypeError for anything else.

    A client's class can only exist if its library was imported, so the libraries are looked up
    among the loaded modules.
    """
    for name in ("httpx", "httpx2"):
        library = sys.modules.get(name)
        if library is not None and isinstance(given, library.AsyncClient):
            from lorry.transports.httpx import HttpxTransport  # loaded when one is in use

            return HttpxTransport(given, library=library)
    library = sys.modules.get("aiohttp")
    if library is not None and isinstance(given, library.ClientSession):
        # loaded when one is in use
        from lorry.transports.aiohttp_session import AiohttpSessionTransport

        return AiohttpSessionTransport(given)
    if isinstance(given, Transport) and not isinstance(given, type):
        return given
    raise TypeError(
        f"transport is a {type(given).__name__}; it must be an httpx.AsyncClient, an "
        "httpx2.AsyncClient, an aiohttp.ClientSession or a lorry Transport"
    )


def default_transport(ssl_context: ssl.SSLContext | None = None) -> Transport:
    """The aiohttp transport; this imports aiohttp."""
    from lorry.transports.aiohttp import AiohttpTransport  # half of the import time of a program

    return AiohttpTransport(ssl_context=ssl_context)
