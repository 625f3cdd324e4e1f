"""HTTP/1.1 without input or output: bytes of a request to send, and a reader of the answer's bytes.

Only what a client of one streaming route needs (RFC 9112): status line, headers, and a body by
Content-Length, by chunks or until the connection closes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto

from lorry_loadtest.endpoint import Endpoint

_MAX_HEAD_BYTES = 65_536


class MalformedHttp(ValueError):
    """The bytes are not an HTTP/1.1 answer."""


def encode_request(
    method: str, path: str, *, endpoint: Endpoint, headers: Mapping[str, str], body: bytes = b""
) -> bytes:
    """One request with its body, in one piece so that it leaves in as few packets as possible."""
    lines = [f"{method} {endpoint.base_path}{path} HTTP/1.1", f"Host: {endpoint.authority}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class _State(Enum):
    HEAD = auto()
    SIZED_BODY = auto()
    UNTIL_CLOSE = auto()
    CHUNK_SIZE = auto()
    CHUNK_DATA = auto()
    CHUNK_END = auto()
    TRAILERS = auto()
    COMPLETE = auto()


class ResponseReader:
    """Feeds on bytes and gives the body as it comes; `status` is 0 until the head is read."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._state = _State.HEAD
        self._buffer = bytearray()
        self._num_left = 0

    @property
    def complete(self) -> bool:
        return self._state is _State.COMPLETE

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry another request."""
        return self.complete and self.headers.get("connection", "").lower() != "close"

    @property
    def is_chunked(self) -> bool:
        """Whether the body tells its own end by an empty chunk."""
        return self.headers.get("transfer-encoding", "").lower().endswith("chunked")

    def feed(self, data: bytes) -> bytes:
        """The part of the body that `data` brings; raises MalformedHttp."""
        if self._state is _State.CHUNK_SIZE and not self._buffer:
            # servers write an event as one chunk, and it mostly comes as one read
            size, _, chunk = data.partition(b"\r\n")
            if size.isalnum() and chunk[-2:] == b"\r\n" and _is_hex(size, len(chunk) - 2):
                return chunk[:-2]
        self._buffer += data
        body = bytearray()
        while self._step(body):
            pass
        return bytes(body)

    def feed_eof(self) -> bool:
        """Told that the server closed; true when the answer is complete with that."""
        if self._state is _State.UNTIL_CLOSE:
            self._state = _State.COMPLETE
            self.headers["connection"] = "close"
        return self.complete

    def _step(self, body: bytearray) -> bool:
        """Does what the buffer allows; false when it needs more bytes or nothing is left to do."""
        match self._state:
            case _State.HEAD:
                return self._read_head()
            case _State.SIZED_BODY:
                self._take(body)
                if self._num_left == 0:
                    self._state = _State.COMPLETE
                return False
            case _State.UNTIL_CLOSE:
                body += self._buffer
                self._buffer.clear()
                return False
            case _State.CHUNK_SIZE:
                return self._read_chunk_size()
            case _State.CHUNK_DATA:
                self._take(body)
                if self._num_left:
                    return False
                self._state = _State.CHUNK_END
                return True
            case _State.CHUNK_END:
                line = self._line()
                if line is None:
                    return False
                if line:
                    raise MalformedHttp(f"{line[:20]!r} where a chunk should end")
                self._state = _State.CHUNK_SIZE
                return True
            case _State.TRAILERS:
                line = self._line()
                if line == b"":
                    self._state = _State.COMPLETE
                return bool(line)
            case _State.COMPLETE:
                return False

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _MAX_HEAD_BYTES:
                raise MalformedHttp(f"no end of the headers in {_MAX_HEAD_BYTES} bytes")
            return False
        first, *lines = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        version, _, rest = first.partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
            raise MalformedHttp(f"{first[:40]!r} is no status line")
        status = int(rest[:3])
        if 100 <= status < 200:
            return True  # informational; the answer itself follows
        self.status = status
        for line in lines:
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()
        self._choose_body(version)
        return True

    def _choose_body(self, version: str) -> None:
        if version == "HTTP/1.0":
            self.headers.setdefault("connection", "close")
        length = self.headers.get("content-length")
        if self.status in (204, 304):
            self._state = _State.COMPLETE
        elif self.is_chunked:
            self._state = _State.CHUNK_SIZE
        elif length is None:
            self._state = _State.UNTIL_CLOSE
        elif not length.isdigit():
            raise MalformedHttp(f"{length!r} is no Content-Length")
        else:
            self._num_left = int(length)
            self._state = _State.SIZED_BODY

    def _read_chunk_size(self) -> bool:
        line = self._line()
        if line is None:
            return False
        try:
            self._num_left = int(line.partition(b";")[0].strip() or b"?", 16)
        except ValueError as exc:
            raise MalformedHttp(f"{line[:20]!r} is no chunk size") from exc
        self._state = _State.CHUNK_DATA if self._num_left else _State.TRAILERS
        return True

    def _take(self, body: bytearray) -> None:
        piece = self._buffer[: self._num_left]
        del self._buffer[: len(piece)]
        self._num_left -= len(piece)
        body += piece

    def _line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > _MAX_HEAD_BYTES:
                raise MalformedHttp(f"a line of more than {_MAX_HEAD_BYTES} bytes")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line


def _is_hex(size: bytes, value: int) -> bool:
    """Whether `size` says `value`, which is not the 0 that ends a body."""
    try:
        return value > 0 and int(size, 16) == value
    except ValueError:
        return False
