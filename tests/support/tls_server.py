"""A server behind TLS with a certificate of its own making, for one address: localhost."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.fake_llm_server import completion


class TlsServer:
    """Answers every request with the completion "sealed". `openssl` makes the certificate."""

    def __init__(self, folder: Path) -> None:
        self._certificate, key = folder / "certificate.pem", folder / "key.pem"
        subprocess.run(
            [
                *(
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:P-256",
                ),
                *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
                *("-addext", "subjectAltName=DNS:localhost"),
                *("-keyout", str(key), "-out", str(self._certificate)),
            ],
            check=True,
            capture_output=True,
        )
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self._certificate, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)

    def trusting_context(self) -> ssl.SSLContext:
        """A client's context that knows the certificate."""
        return ssl.create_default_context(cafile=self._certificate)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # which wakes `accept`
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        body = json.dumps(completion("sealed", finish_reason="stop")).encode()
        head = f"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            with (
                contextlib.suppress(OSError),  # a client that does not trust us leaves
                accepted,
                self.context.wrap_socket(accepted, server_side=True) as connection,
            ):
                received = b""
                while not received.endswith(b"}"):
                    received += connection.recv(65536)
                connection.sendall(head.encode() + body)
