"""`listen`: the server's socket, bound before anything slow is done."""

from __future__ import annotations

import socket

from lorry_server.errors import StartupError


def listen(host: str, port: int) -> socket.socket:
    """A TCP socket bound to an address; raises StartupError that says why it cannot be.

    Its protocol is said, not left to the system: asyncio turns the gathering of small pieces off
    (TCP_NODELAY) only on connections whose socket says that it is TCP, and without that the body of
    an answer waits 40 ms for the acknowledgement of its head.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as exc:
        listener.close()
        raise StartupError(f"cannot listen on {host}:{port}: {exc.strerror}") from exc
    return listener
