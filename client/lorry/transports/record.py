"""Writes what passes through another transport to a cassette, for `ReplayTransport`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from lorry.errors import ClientError, ConfigError, ConnectError, ConnectionLost, DeadlineExceeded
from lorry.timing import AttemptTiming
from lorry.transports.base import Transport, WireRequest, WireResponse
from lorry.transports.cassette import (
    VERSION,
    Answer,
    Data,
    End,
    FailedSend,
    Failure,
    Mark,
    Piece,
    Secrets,
    Track,
    body_hash,
    path_of,
)
from lorry.transports.select import TransportLike, as_transport, default_transport


class RecordingTransport:
    """Sends through `inner` (aiohttp if None) and adds each request, once it is over, to `path`.

    Piece for piece and with the waits between them, as this client read them; without keys, but
    with the prompts and the texts. A request that was cancelled before its answer began is not
    recorded. Writing is plain and blocking: this is for tests, not for a service. Raises ConfigError if the file exists, so that no
    recording is lost by a second run.
    """

    def __init__(self, inner: TransportLike | None, path: str | Path) -> None:
        self._inner: Transport = default_transport() if inner is None else as_transport(inner)
        self._path = Path(path)
        if self._path.exists():
            raise ConfigError(f"the cassette {self._path} exists; remove it to record it again")
        self._num_sent = 0

    async def send(self, request: WireRequest, *, attempt: AttemptTiming) -> RecordedResponse:
        index = self._num_sent
        self._num_sent += 1
        started_ns = time.perf_counter_ns()
        try:
            response = await self._inner.send(request, attempt=attempt)
        except ClientError as error:
            failed = FailedSend(
                after_ms=_ms_since(started_ns),
                failure=_failure(error),
                message=Secrets(request).blot(str(error)),
            )
            self._write(request, index, failed=failed)
            raise
        return RecordedResponse(self, request, index, response, started_ns=started_ns)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def finished(self, request: WireRequest, index: int, answer: Answer) -> None:
        """Called by a response at its end."""
        self._write(request, index, answer=answer)

    def _write(
        self,
        request: WireRequest,
        index: int,
        *,
        answer: Answer | None = None,
        failed: FailedSend | None = None,
    ) -> None:
        secrets = Secrets(request)
        track = Track(
            index=index,
            method=request.method,
            path=secrets.blot(path_of(request)),
            headers=secrets.blot_headers(request.headers),
            body_sha256=body_hash(request),
            body=None if request.body is None else Data.of(secrets.blot_bytes(request.body)),
            answer=answer,
            failed=failed,
        )
        line = msgspec.json.encode(track) + b"\n"
        if not self._path.exists():
            line = msgspec.json.encode(Mark(VERSION)) + b"\n" + line
        with self._path.open("ab") as file:
            file.write(line)


class RecordedResponse:
    """The response of the transport below; notes each piece with its time."""

    def __init__(
        self,
        transport: RecordingTransport,
        request: WireRequest,
        index: int,
        response: WireResponse,
        *,
        started_ns: int,
    ) -> None:
        self._transport = transport
        self._request = request
        self._index = index
        self._response = response
        self._after_ms = _ms_since(started_ns)
        self._last_ns = time.perf_counter_ns()
        self._pieces: list[bytes] = []
        self._waits_ms: list[float] = []
        self._is_written = False

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    @property
    def at_end(self) -> bool:
        return self._response.at_end

    def read_nowait(self) -> bytes:
        with _Cut(self):
            data = self._response.read_nowait()
        self._note(data)
        return data

    async def read_some(self) -> bytes:
        with _Cut(self):
            data = await self._response.read_some()
        self._note(data)
        if not data:
            self.end("complete")
        return data

    def abort(self) -> None:
        self._response.abort()
        self.end("left")

    async def aclose(self) -> None:
        await self._response.aclose()
        self.end("left")

    def end(self, end: End) -> None:
        """The first end is the one that counts."""
        if self._is_written:
            return
        self._is_written = True
        secrets = Secrets(self._request)
        pieces = secrets.blot_pieces(self._pieces)
        self._transport.finished(
            self._request,
            self._index,
            Answer(
                after_ms=self._after_ms,
                status=self.status,
                headers=secrets.blot_headers(self.headers),
                pieces=[
                    Piece(after_ms, Data.of(piece))
                    for after_ms, piece in zip(self._waits_ms, pieces, strict=True)
                ],
                end=end,
            ),
        )

    def _note(self, data: bytes) -> None:
        if data:
            self._pieces.append(data)
            self._waits_ms.append(_ms_since(self._last_ns))
            self._last_ns = time.perf_counter_ns()
        if self._response.at_end:
            self.end("complete")


class _Cut:
    """Notes that a read found the answer cut; lets the error pass."""

    def __init__(self, response: RecordedResponse) -> None:
        self._response = response

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, ConnectionLost):
            self._response.end("cut")


def _ms_since(start_ns: int) -> float:
    return round((time.perf_counter_ns() - start_ns) / 1e6, 3)


def _failure(error: ClientError) -> Failure:
    if isinstance(error, ConnectError):
        return "refused" if error.retryable else "unreachable"
    return "connect_timeout" if isinstance(error, DeadlineExceeded) else "lost"
