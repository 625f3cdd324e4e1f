"""One keep-alive connection, whose received bytes are stamped as they arrive."""

from __future__ import annotations

import errno
import socket as socket_names
from typing import Any

from gevent import socket

from lorry_loadtest.endpoint import Endpoint
from lorry_loadtest.greenlet_stream import GreenletStream
from lorry_loadtest.outcomes import AttemptFailed, Outcome
from lorry_loadtest.stamping_thread import StampedStream, kernel_can_stamp, stamping_thread

# Files, ports or memory have run out on this side; the server was not even asked.
_NO_ROOM_HERE = (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM)


class Connection:
    """Opened at its first use and again after it has ended. Belongs to one greenlet at a time."""

    def __init__(self, endpoint: Endpoint, *, connect_timeout_s: float) -> None:
        self._endpoint = endpoint
        self._connect_timeout_s = connect_timeout_s
        self._stream: StampedStream | GreenletStream | None = None

    @property
    def stream(self) -> StampedStream | GreenletStream:
        assert self._stream is not None, "the connection was not opened"
        return self._stream

    def open(self) -> bool:
        """Makes sure that the connection is open; true when an open one is used again.

        Raises AttemptFailed with `connect` or `tls`.
        """
        if self._stream is not None and self._stream.is_idle:
            return True
        self.close()
        self._stream = self._connect()
        return False

    def send(self, data: bytes) -> None:
        """Raises AttemptFailed with `connect` when the server has gone."""
        stream = self.stream
        stream.arm()
        try:
            if isinstance(stream, GreenletStream):
                stream.send_all(data)
            else:
                _send_all(stream, data)
        except OSError as exc:
            raise AttemptFailed("connect", f"while sending: {exc}") from exc

    def close(self) -> None:
        if self._stream is not None:
            self._stream.abort()
            if isinstance(self._stream, GreenletStream):
                self._stream.close()  # the other kind is closed by the thread that reads it
            self._stream = None

    def _connect(self) -> StampedStream | GreenletStream:
        address = (self._endpoint.host, self._endpoint.port)
        try:
            connected = socket.create_connection(address, timeout=self._connect_timeout_s)
        except OSError as exc:
            outcome: Outcome = "client_overload" if exc.errno in _NO_ROOM_HERE else "connect"
            raise AttemptFailed(outcome, f"{self._endpoint.authority}: {exc}") from exc
        connected.setsockopt(socket_names.IPPROTO_TCP, socket_names.TCP_NODELAY, 1)
        if self._endpoint.tls:
            return self._secure(connected)
        if kernel_can_stamp():
            return stamping_thread().adopt(connected.detach())
        connected.settimeout(None)
        return GreenletStream(connected)

    def _secure(self, connected: Any) -> GreenletStream:
        # here, because a plain connection does not need it and it is slow to import
        from gevent import ssl

        try:
            secured = ssl.create_default_context().wrap_socket(
                connected, server_hostname=self._endpoint.host
            )
        except OSError as exc:
            connected.close()
            raise AttemptFailed("tls", f"{self._endpoint.authority}: {exc}") from exc
        secured.settimeout(None)
        return GreenletStream(secured)


def _send_all(stream: StampedStream, data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[stream.send(left) :]
        except BlockingIOError:
            socket.wait_write(stream.fd)
