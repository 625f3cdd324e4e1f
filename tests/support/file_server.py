"""`FileServer`: files over HTTP on loopback, with every fault that a server of files can have.

A hosted file may also be a named pipe, so that whoever writes to it decides how fast it comes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

PIECE_BYTES = 1 << 16


@dataclass
class HostedFile:
    """What is answered for one path.

    `num_bytes` is what the server says of the length, None that it does not say; `cut_after` and
    `stall_after` are bytes of the body, after which the connection is closed or nothing comes any
    more. The body begins when `gate` is set.
    """

    content: bytes = b""
    fifo: Path | None = None
    etag: str | None = None
    status: int = 200
    location: str | None = None
    num_bytes: int | None = -1
    cut_after: int | None = None
    stall_after: int | None = None
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()
        if self.num_bytes == -1:
            self.num_bytes = len(self.content)

    def pieces(self) -> Iterator[bytes]:
        if self.fifo is not None:
            with self.fifo.open("rb", buffering=0) as pipe:
                while piece := pipe.read(PIECE_BYTES):
                    yield piece
            return
        end = len(self.content)
        for stop in (self.cut_after, self.stall_after):
            end = end if stop is None else min(end, stop)
        for start in range(0, end, PIECE_BYTES):
            yield self.content[start : min(start + PIECE_BYTES, end)]


class FileServer:
    """A context manager. `files` may be changed at any time; `requests` has what was asked."""

    def __init__(self, files: Mapping[str, HostedFile] | None = None) -> None:
        self.files: dict[str, HostedFile] = dict(files or {})
        self.requests: list[tuple[str, str]] = []
        self.stopped = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def host(self, folder: str, files: Mapping[str, bytes], *, version: str | None = "1") -> None:
        """Host the files below `folder`, with etags that say `version` where that is given."""
        for name, content in files.items():
            etag = None if version is None else f'"{version}"'
            self.files[f"/{folder}/{name}"] = HostedFile(content, etag=etag)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for file in self.files.values():
            file.gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(server: FileServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._head()

        def do_GET(self) -> None:
            file = self._head()
            if file is None or file.status != 200:
                return
            file.gate.wait()
            try:
                for piece in file.pieces():
                    self._send(piece, is_chunked=file.num_bytes is None)
                if file.stall_after is not None:
                    server.stopped.wait()
                if file.num_bytes is None and file.cut_after is None:
                    self.wfile.write(b"0\r\n\r\n")
            except OSError:
                pass  # the client has gone
            if file.cut_after is not None or file.stall_after is not None:
                self.close_connection = True

        def _head(self) -> HostedFile | None:
            server.requests.append((self.command, self.path))
            file = server.files.get(self.path)
            self.send_response(404 if file is None else file.status)
            if file is None or file.status != 200:
                self.send_header("Content-Length", "0")
            elif file.num_bytes is None:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Content-Length", str(file.num_bytes))
            if file is not None and file.etag is not None:
                self.send_header("ETag", file.etag)
            if file is not None and file.location is not None:
                self.send_header("Location", file.location)
            self.end_headers()
            return file

        def _send(self, piece: bytes, *, is_chunked: bool) -> None:
            if is_chunked:
                piece = b"%x\r\n%s\r\n" % (len(piece), piece)
            self.wfile.write(piece)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
