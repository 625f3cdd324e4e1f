"""One keep-alive connection on a gevent socket, which stamps bytes as they arrive."""

from __future__ import annotations

import socket as native_socket
import time

from gevent import socket

from lorry_loadtest.endpoint import Endpoint
from lorry_loadtest.outcomes import AttemptFailed

_MAX_READ_BYTES = 65_536


class Connection:
    """Opened at its first use and again after it was closed. Belongs to one greenlet at a time."""

    def __init__(self, endpoint: Endpoint, *, connect_timeout_s: float) -> None:
        self._endpoint = endpoint
        self._connect_timeout_s = connect_timeout_s
        self._socket: socket.socket | None = None

    def open(self) -> bool:
        """Makes sure that the connection is open; true when an open one is used again.

        Raises AttemptFailed with `connect` or `tls`.
        """
        if self._socket is not None and self._is_alive(self._socket):
            return True
        self.close()
        self._socket = self._connect()
        return False

    def send(self, data: bytes) -> None:
        """Raises AttemptFailed with `connect` when the server has gone."""
        assert self._socket is not None
        try:
            self._socket.sendall(data)
        except OSError as exc:
            raise AttemptFailed("connect", f"while sending: {exc}") from exc

    def receive(self, *, deadline_ns: int) -> tuple[int, bytes]:
        """The next bytes and the `perf_counter_ns` at which the read returned; b"" at the end.

        Raises TimeoutError at `deadline_ns`, and OSError when the connection is reset.
        """
        assert self._socket is not None
        left_s = (deadline_ns - time.perf_counter_ns()) / 1e9
        if left_s <= 0:
            raise TimeoutError
        self._socket.settimeout(left_s)
        data = self._socket.recv(_MAX_READ_BYTES)
        return time.perf_counter_ns(), data

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self) -> socket.socket:
        address = (self._endpoint.host, self._endpoint.port)
        try:
            connected = socket.create_connection(address, timeout=self._connect_timeout_s)
        except OSError as exc:
            raise AttemptFailed("connect", f"{self._endpoint.authority}: {exc}") from exc
        connected.setsockopt(native_socket.IPPROTO_TCP, native_socket.TCP_NODELAY, 1)
        if not self._endpoint.tls:
            return connected
        # here, because a plain connection does not need it and it is slow to import
        from gevent import ssl

        try:
            return ssl.create_default_context().wrap_socket(
                connected, server_hostname=self._endpoint.host
            )
        except OSError as exc:
            connected.close()
            raise AttemptFailed("tls", f"{self._endpoint.authority}: {exc}") from exc

    def _is_alive(self, idle: socket.socket) -> bool:
        """Whether the server has neither closed the idle connection nor sent something unasked."""
        if self._endpoint.tls:
            return True  # TLS cannot be peeked at; a dead one shows when it is used
        idle.settimeout(0.0)
        try:
            idle.recv(1, native_socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False
