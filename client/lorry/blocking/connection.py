"""Connections to one server: made within a limit of time, kept, and handed out again."""

from __future__ import annotations

import http.client
import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from typing import cast
from urllib.parse import urlsplit

from lorry.blocking.limited_socket import LimitedSocket, Patience, forever
from lorry.transports.connect_error import connect_error

# below the idle limits of servers, so that the client drops a connection first
KEEPALIVE_S = 4.0
MAX_IDLE_CONNECTIONS = 128


class Connection:
    """One connection and `http.client`'s state of it."""

    def __init__(self, connected: LimitedSocket, host: str, port: int) -> None:
        self.socket = connected
        self.http = http.client.HTTPConnection(host, port)
        # it has the methods of a socket that `http.client` calls
        self.http.sock = cast(socket.socket, connected)
        self.idle_since = 0.0

    def close(self) -> None:
        """Close it once its answer was read or dropped."""
        self.http.close()

    def abort(self) -> None:
        """Close it now."""
        self.socket.abort()
        self.http.close()

    def is_usable(self, now: float) -> bool:
        """Idle for not too long, and nothing came: a byte could only be the server's farewell."""
        if now - self.idle_since > KEEPALIVE_S or self.socket.fileno() < 0:
            return False
        if not hasattr(select, "poll"):  # Windows
            return not select.select([self.socket.fileno()], [], [], 0)[0]
        poll = select.poll()
        poll.register(self.socket.fileno(), select.POLLIN)
        return not poll.poll(0)


class ConnectionPool:
    """Keeps idle connections of one server; safe to use from any thread, and after a fork.

    As many connections are open as calls are in flight. TLS is that of `ssl.create_default_context`
    unless a context is given.
    """

    def __init__(self, base_url: str, *, ssl_context: ssl.SSLContext | None = None) -> None:
        parts = urlsplit(base_url)
        # whether the server repeats idempotency keys in its answers, which says that it heeds them
        self.heeds_keys = False
        self._url = base_url
        self._host = parts.hostname or ""
        self._is_tls = parts.scheme == "https"
        self._port = parts.port or (443 if self._is_tls else 80)
        self._ssl_context = ssl_context
        self._idle: deque[Connection] = deque()
        self._lock = threading.Lock()
        self._process = os.getpid()

    def take(self) -> Connection | None:
        """The connection that was used last of those that still can be, None if there is none."""
        now = time.monotonic()
        self._forget_the_parents()
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return None
            if connection.is_usable(now):
                return connection
            connection.abort()

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose answer was read to its end."""
        connection.socket.patience = forever
        connection.idle_since = time.monotonic()
        self._idle.append(connection)
        while len(self._idle) > MAX_IDLE_CONNECTIONS:
            try:
                self._idle.popleft().abort()
            except IndexError:
                return  # another thread was faster

    def connect(self, patience: Patience) -> Connection:
        """A new connection. Raises ConnectError, and TimeoutError when `patience` ends.

        The look-up of a name cannot be interrupted: it takes what the system's resolver takes.
        """
        try:
            addresses = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            raise connect_error(self._url, error, is_name_unknown=True) from error
        problem: OSError = OSError("the name has no address")
        for family, kind, protocol, _, address in addresses:
            try:
                return self._connect_to(family, kind, protocol, address, patience)
            except OSError as error:
                if isinstance(error, TimeoutError) and error.errno is None:
                    raise  # our patience, not the system's
                problem = error
        raise connect_error(self._url, problem) from problem

    def close(self) -> None:
        """Close what is idle; what is in use is closed when it comes back to be dropped."""
        self._forget_the_parents()
        while self._idle:
            try:
                self._idle.popleft().abort()
            except IndexError:
                return

    def _connect_to(
        self,
        family: int,
        kind: int,
        protocol: int,
        address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes],
        patience: Patience,
    ) -> Connection:
        connecting = socket.socket(family, kind, protocol)
        try:
            connecting.settimeout(patience())
            connecting.connect(address)
            connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._is_tls:
                connecting = self._context().wrap_socket(
                    connecting, server_hostname=self._host, do_handshake_on_connect=False
                )
                connecting.settimeout(patience())
                connecting.do_handshake()
        except BaseException:
            connecting.close()
            raise
        return Connection(LimitedSocket(connecting, patience), self._host, self._port)

    def _context(self) -> ssl.SSLContext:
        with self._lock:  # it takes ten milliseconds to make, so only one is
            if self._ssl_context is None:
                self._ssl_context = ssl.create_default_context()
            return self._ssl_context

    def _forget_the_parents(self) -> None:
        """After a fork the connections are the parent's: this process must not speak on them."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._lock = threading.Lock()
            while self._idle:
                self._idle.pop().close()  # this end of it, without a word to the server
