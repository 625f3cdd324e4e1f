"""What aiohttp raises, as errors of the client."""

from __future__ import annotations

import aiohttp
from aiohttp.http import HttpProcessingError

from lorry.errors import ConnectError, ConnectionLost, DeadlineExceeded
from lorry.transports.connect_error import connect_error


def not_connected(url: str, error: Exception) -> ConnectError:
    """Return (not raise) the error for a server that could not be reached."""
    return connect_error(
        url,
        getattr(error, "os_error", error),
        is_name_unknown=isinstance(error, aiohttp.ClientConnectorDNSError),
    )


def connected_too_late(url: str, limit_s: float | None) -> DeadlineExceeded:
    """Return (not raise) the error for a connection that was not made within `limit_s`."""
    limit_s = limit_s or 0.0
    return DeadlineExceeded(
        f"no connection to {url} within {limit_s:g} s", phase="connect", limit_s=limit_s
    )


def lost(error: Exception) -> ConnectionLost:
    """Return (not raise) the error for a connection that ended before the answer did."""
    return ConnectionLost(
        f"the connection ended before the answer did ({error or type(error).__name__})"
    )


def unreadable(error: HttpProcessingError) -> ConnectionLost:
    """Return (not raise) the error for what came instead of an answer; its own text says 400."""
    return ConnectionLost(
        f"what the server sent is no answer in HTTP ({' '.join(error.message.split())})"
    )
