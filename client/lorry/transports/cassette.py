"""A recording on disk: one JSON object per line, first a mark, then every request with its answer.

A line keeps an answer as it came: each piece that a read returned, and the milliseconds since the
piece before it. Keys are blotted out by stars of the same length, so that the pieces keep their
bounds: the values of headers that carry keys, and wherever these values stand in a body.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from lorry.errors import ConfigError
from lorry.transports.base import WireRequest

VERSION = 1

_SECRET_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "api-key"}
)
# shorter ones are words of the text too, and nobody's secret
_SHORTEST_KEY = 6
_SECRET_FIELDS = frozenset({"api_key", "api_token"})  # LoRAX takes a token for the hub in the body

End = Literal["complete", "cut", "left"]
Failure = Literal["refused", "unreachable", "connect_timeout", "lost"]


class Data(msgspec.Struct, frozen=True, omit_defaults=True):
    """Bytes: as text where they are UTF-8, so that people can read them, else as base64."""

    text: str | None = None
    base64: str | None = None

    @classmethod
    def of(cls, data: bytes) -> Data:
        try:
            return cls(text=data.decode())
        except UnicodeDecodeError:  # a piece may end inside a character
            return cls(base64=base64.b64encode(data).decode())

    def bytes(self) -> bytes:
        return base64.b64decode(self.base64) if self.base64 else (self.text or "").encode()


class Piece(msgspec.Struct, frozen=True):
    """What one read returned, `after_ms` after the piece (or the headers) before it."""

    after_ms: float
    data: Data


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer's head, which came `after_ms` after the request was sent, and what followed.

    `end` says how the body ended: `complete`, `cut` by the other side, or `left` by this one.
    """

    after_ms: float
    status: int
    headers: dict[str, str]
    pieces: list[Piece]
    end: End


class FailedSend(msgspec.Struct, frozen=True, kw_only=True):
    """No answer: what went wrong instead, `after_ms` after the request was sent."""

    after_ms: float
    failure: Failure
    message: str


class Track(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request, numbered in the order of sending, and what came of it."""

    index: int
    method: str
    path: str
    headers: dict[str, str]
    body_sha256: str
    body: Data | None = None
    answer: Answer | None = None
    failed: FailedSend | None = None


class Mark(msgspec.Struct, frozen=True):
    """The first line of a cassette."""

    lorry_cassette: int


class Secrets:
    """The keys of one request, and how to blot them out of anything."""

    def __init__(self, request: WireRequest) -> None:
        carried = [
            value for name, value in request.headers.items() if name.lower() in _SECRET_HEADERS
        ]
        keys = {value.rpartition(" ")[2] for value in carried}  # without "Bearer"
        keys.update(carried, _secret_fields(request.body))
        # a longer one first, lest a part of it be left over
        self._values = sorted(
            (key for key in keys if len(key) >= _SHORTEST_KEY), key=len, reverse=True
        )

    def blot(self, text: str) -> str:
        for value in self._values:
            text = text.replace(value, "*" * len(value))
        return text

    def blot_bytes(self, data: bytes) -> bytes:
        for value in self._values:
            secret = value.encode()
            data = data.replace(secret, b"*" * len(secret))
        return data

    def blot_headers(self, headers: Mapping[str, str]) -> dict[str, str]:
        return {
            name.lower(): "***" if name.lower() in _SECRET_HEADERS else self.blot(value)
            for name, value in headers.items()
        }

    def blot_pieces(self, pieces: list[bytes]) -> list[bytes]:
        """The pieces, without a key that lies across several of them either."""
        whole = self.blot_bytes(b"".join(pieces))
        blotted, start = [], 0
        for piece in pieces:
            blotted.append(whole[start : start + len(piece)])
            start += len(piece)
        return blotted


def path_of(request: WireRequest) -> str:
    """The address without scheme and host: a recording holds for any server."""
    parts = urlsplit(request.url)
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def body_hash(request: WireRequest) -> str:
    return hashlib.sha256(request.body or b"").hexdigest()


def read_cassette(path: Path) -> list[Track]:
    """The tracks in the order in which they were sent.

    Raises ConfigError for a file that is missing or no cassette, naming the line that is wrong.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"the cassette {path} cannot be read: {error}") from error
    tracks = list(_decoded(path, lines))
    return sorted(tracks, key=lambda track: track.index)


def _decoded(path: Path, lines: list[bytes]) -> Iterator[Track]:
    try:
        mark = msgspec.json.decode(lines[0] if lines else b"", type=Mark)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not a cassette: {error}") from error
    if mark.lorry_cassette != VERSION:
        raise ConfigError(
            f"the cassette {path} is of version {mark.lorry_cassette}; this reads version {VERSION}"
        )
    for number, line in enumerate(lines[1:], start=2):
        try:
            yield msgspec.json.decode(line, type=Track)
        except msgspec.DecodeError as error:
            raise ConfigError(f"line {number} of the cassette {path} is wrong: {error}") from error


def _secret_fields(body: bytes | None) -> list[str]:
    """The values of the fields that hold keys, at the top of a JSON body or among its parameters."""
    try:
        decoded = msgspec.json.decode(body or b"null")
    except msgspec.DecodeError:
        return []
    if not isinstance(decoded, dict):
        return []
    parameters = decoded.get("parameters")
    objects = [decoded, *([parameters] if isinstance(parameters, dict) else [])]
    return [
        value
        for fields in objects
        for name, value in fields.items()
        if name in _SECRET_FIELDS and isinstance(value, str)
    ]
