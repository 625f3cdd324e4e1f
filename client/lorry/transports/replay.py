"""Answers requests from a cassette, at the speed at which it was recorded or another."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from lorry.errors import ClientError, ConnectError, ConnectionLost, DeadlineExceeded, ReplayMismatch
from lorry.timing import AttemptTiming
from lorry.transports.base import WireRequest
from lorry.transports.cassette import Answer, Track, body_hash, path_of, read_cassette
from lorry.transports.headers import Headers


class ReplayTransport:
    """Gives each request the answer that the same one had: same method, path and body.

    Requests that are alike get the recorded answers in the order in which they were sent. `speed`
    10 makes all waits ten times shorter, `math.inf` leaves them out. Pieces come as they were
    recorded, and an answer that was cut is cut. A request without a recorded answer raises
    ReplayMismatch, which says in what it differs from the nearest. Raises ConfigError for a file
    that is no cassette, ValueError for a speed that is not above zero.
    """

    def __init__(self, path: str | Path, *, speed: float = 1.0) -> None:
        if not speed > 0:
            raise ValueError(f"speed is {speed}; it must be above 0, and may be math.inf")
        self._path = Path(path)
        self._speed = speed
        self._tracks = read_cassette(self._path)
        self._waiting: dict[tuple[str, str, str], deque[Track]] = {}
        for track in self._tracks:
            key = (track.method, track.path, track.body_sha256)
            self._waiting.setdefault(key, deque()).append(track)

    @property
    def num_unused(self) -> int:
        """How many recorded answers nobody has asked for yet."""
        return sum(len(tracks) for tracks in self._waiting.values())

    async def send(self, request: WireRequest, *, attempt: AttemptTiming) -> ReplayedResponse:
        key = (request.method, path_of(request), body_hash(request))
        waiting = self._waiting.get(key)
        if not waiting:
            raise ReplayMismatch(self._why_nothing_matches(request, was_known=waiting is not None))
        track = waiting.popleft()
        attempt.connected_ns = time.perf_counter_ns()
        if track.answer is not None:
            await asyncio.sleep(track.answer.after_ms / 1000 / self._speed)
            return ReplayedResponse(track.answer, speed=self._speed)
        assert track.failed is not None
        await asyncio.sleep(track.failed.after_ms / 1000 / self._speed)
        raise _failure(track)

    async def aclose(self) -> None:
        """Does nothing: there are no connections."""

    def _why_nothing_matches(self, request: WireRequest, *, was_known: bool) -> str:
        what = f"{request.method} {path_of(request)}"
        if was_known:
            return f"the cassette {self._path} has no further answer for this {what}"
        alike = [
            track
            for track in self._tracks
            if (track.method, track.path) == (request.method, path_of(request))
        ]
        if not alike:
            recorded = sorted({f"{track.method} {track.path}" for track in self._tracks})
            return (
                f"the cassette {self._path} has no answer for {what}; it has "
                f"{', '.join(recorded) or 'none at all'}"
            )
        differences = min(
            (_differences(request.body, track) for track in alike), key=lambda names: len(names)
        )
        return (
            f"the cassette {self._path} has {len(alike)} answers for {what}, none for this body; "
            f"the nearest differs in {', '.join(differences) or 'the order of its fields'}"
        )


class ReplayedResponse:
    """A recorded answer, each piece due when it came after the one before."""

    def __init__(self, answer: Answer, *, speed: float) -> None:
        self.status = answer.status
        self.headers: Mapping[str, str] = Headers(answer.headers.items())
        self._end = answer.end
        self._is_closed = asyncio.Event()
        due_at = asyncio.get_running_loop().time()
        self._pieces: deque[tuple[float, bytes]] = deque()
        for piece in answer.pieces:
            due_at += piece.after_ms / 1000 / speed
            self._pieces.append((due_at, piece.data.bytes()))

    @property
    def at_end(self) -> bool:
        return not self._pieces and self._end == "complete" and not self._is_closed.is_set()

    def read_nowait(self) -> bytes:
        now = asyncio.get_running_loop().time()
        due = []
        while self._pieces and self._pieces[0][0] <= now:
            due.append(self._pieces.popleft()[1])
        return b"".join(due)

    async def read_some(self) -> bytes:
        if self._pieces:
            await self._wait(self._pieces[0][0] - asyncio.get_running_loop().time())
        if self._is_closed.is_set():
            raise ConnectionLost("the connection was closed on this side")
        if self._pieces:
            return self._pieces.popleft()[1]
        if self._end == "complete":
            return b""
        raise ConnectionLost(
            "the recorded connection ended here"
            if self._end == "cut"
            else "the recording ends here: its client had left"
        )

    def abort(self) -> None:
        self._pieces.clear()
        self._is_closed.set()

    async def aclose(self) -> None:
        if self._pieces:
            self.abort()

    async def _wait(self, delay_s: float) -> None:
        """Wait for the time, or for `abort`; lets others run in any case."""
        if delay_s <= 0:
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(delay_s):
                await self._is_closed.wait()
        except TimeoutError:
            pass


def _failure(track: Track) -> ClientError:
    assert track.failed is not None
    message, failure = track.failed.message, track.failed.failure
    if failure == "connect_timeout":
        return DeadlineExceeded(message, phase="connect", limit_s=track.failed.after_ms / 1000)
    if failure == "lost":
        return ConnectionLost(message)
    return ConnectError(message, refused=failure == "refused")


def _differences(body: bytes | None, track: Track) -> list[str]:
    """The names of the fields in which two JSON bodies differ, or what else they are."""
    recorded = b"" if track.body is None else track.body.bytes()
    try:
        new, old = msgspec.json.decode(body or b"null"), msgspec.json.decode(recorded or b"null")
    except msgspec.DecodeError:
        return ["its bytes"]
    if not (isinstance(new, dict) and isinstance(old, dict)):
        return ["its whole content"]
    absent = object()
    return [
        _difference(name, new.get(name, absent), old.get(name, absent), absent)
        for name in sorted({*new, *old})
        if new.get(name, absent) != old.get(name, absent)
    ]


def _difference(name: str, new: Any, old: Any, absent: object) -> str:
    if new is absent:
        return f"{name!r} (missing here)"
    if old is absent:
        return f"{name!r} (not recorded)"
    return repr(name)
