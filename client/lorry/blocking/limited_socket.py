"""A socket whose every wait ends in time, in the shape that `http.client` expects of one.

`http.client` reads heads line by line. A timeout on the socket would begin anew with every piece
that trickles in, so it is set anew before every wait, from the time that is left.
"""

from __future__ import annotations

import contextlib
import io
import socket
import time
from collections.abc import Callable
from typing import Any

READ_BUFFER_BYTES = 64 * 1024

# Seconds that a wait may take, None for any time. Raises TimeoutError when none are left.
Patience = Callable[[], float | None]


def forever() -> None:
    """The patience of a connection that no call uses."""


class LimitedSocket:
    """Owns a connected socket. `patience` is that of the call that uses it; `read_ns` is when the
    last read returned (`time.perf_counter_ns`)."""

    def __init__(self, connected: socket.socket, patience: Patience) -> None:
        self.patience = patience
        self.read_ns = 0
        self._socket = connected
        self._num_readers = 0
        self._is_to_close = False

    def sendall(self, data: bytes) -> None:
        # Python counts this timeout over all of the data
        self._socket.settimeout(self.patience())
        self._socket.sendall(data)

    def read_into(self, buffer: Any) -> int:
        self._socket.settimeout(self.patience())
        num_bytes = self._socket.recv_into(buffer)
        self.read_ns = time.perf_counter_ns()
        return num_bytes

    def makefile(self, mode: str) -> io.BufferedReader:
        """What an answer is read from; it keeps the socket open while it is."""
        assert mode == "rb"
        self._num_readers += 1
        return io.BufferedReader(_Reader(self), READ_BUFFER_BYTES)

    def close(self) -> None:
        """Close once nothing reads any more: an answer may follow on its connection's end."""
        self._is_to_close = True
        if self._num_readers == 0:
            self._socket.close()

    def reader_closed(self) -> None:
        self._num_readers -= 1
        if self._is_to_close:
            self.close()

    def abort(self) -> None:
        """Close now; whoever waits in another thread is woken."""
        with contextlib.suppress(OSError):  # it is closed already, which is what was wanted
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()


class _Reader(io.RawIOBase):
    def __init__(self, source: LimitedSocket) -> None:
        self._source: LimitedSocket | None = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._source is None:
            raise ValueError("the reader is closed")
        return self._source.read_into(buffer)

    def close(self) -> None:
        source, self._source = self._source, None
        super().close()
        if source is not None:
            source.reader_closed()
