"""A port for a server of another process, which has to be told one."""

from __future__ import annotations

import random
import socket

# below those that Linux hands out, so that no connection of other tests takes it meanwhile
_PORTS = range(15_000, 32_000)


def free_port() -> int:
    """A port of loopback that nobody uses."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
