"""Reads in the greenlet that wants them, stamped when they return: for TLS and without Linux.

The bytes that the kernel stamps are TLS records, and what is in them is known only after they were
decrypted, so these streams have no kernel stamps, and their records say so.
"""

from __future__ import annotations

import contextlib
import socket as socket_names
import time
from typing import Any

from lorry_loadtest.stream_reads import Read

_READ_BYTES = 65_536


class GreenletStream:
    """Implements `ReadStream` over a socket of gevent's."""

    def __init__(self, connected: Any) -> None:
        self.ended = False
        self.error: OSError | None = None
        self.last_read_ns = 0
        self._socket = connected

    @property
    def is_idle(self) -> bool:
        # TLS cannot be peeked at; a dead connection shows when it is used
        return not self.ended

    def arm(self) -> None:
        pass  # every read is handed over by itself: there is nothing to begin anew

    def send_all(self, data: bytes) -> None:
        self._socket.sendall(data)

    def wait_reads(self) -> list[Read]:
        if self.ended:
            return []
        try:
            data = self._socket.recv(_READ_BYTES)
        except OSError as exc:
            self.error = exc
            data = b""
        except ValueError:  # ssl's word for a socket that `abort` has closed meanwhile
            data = b""
        user_ns = time.perf_counter_ns()
        if not data:
            self.ended = True
            self._socket.close()
            return []
        self.last_read_ns = user_ns
        return [Read(0, user_ns, data)]

    def hand_over_each_read(self) -> None:
        pass  # it always does

    def poke(self) -> None:
        pass  # nothing waits between a read and its reader

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket_names.SHUT_RDWR)

    def close(self) -> None:
        """By its owner, who reads no more."""
        self.ended = True
        self._socket.close()
