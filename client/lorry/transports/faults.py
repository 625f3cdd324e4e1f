"""Makes another transport fail, by chance but the same way every time: who fails is the seed's."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import Literal, TypeAlias

import msgspec

from lorry.errors import ConnectError, ConnectionLost
from lorry.timing import AttemptTiming
from lorry.transports.base import Transport, WireRequest, WireResponse
from lorry.transports.headers import Headers
from lorry.transports.select import TransportLike, as_transport, default_transport

FaultName: TypeAlias = Literal[
    "refuse",
    "status_429",
    "status_500",
    "slow_headers",
    "reset_before_headers",
    "reset_mid_stream",
    "stall",
]

# where in a body it is cut or stops: within the first few events of a stream
_MAX_BYTES_BEFORE_FAULT = 256


class FaultTransport:
    """Sends through `inner` (aiohttp if None); each request meets at most one fault.

    The shares are probabilities, together at most 1:

    - `refuse`: the connection is refused; the server sees nothing.
    - `status_429`, `status_500`: an answer of that status; the server sees nothing.
    - `slow_headers`: the head of the answer is held back for `slow_headers_s`.
    - `reset_before_headers`: the server has the request, the connection ends before the answer.
    - `reset_mid_stream`: the connection ends within the first 256 bytes of the body, or at its end.
    - `stall`: from one of these bytes on nothing comes, and the connection stays open.

    `split_bytes` cuts every answer into pieces of 1 to that many bytes, through characters and line
    ends. What befalls a request depends on the seed, on its method, path and body, and on how many
    such requests went before it, and so not on the order in which tasks run. Raises ValueError for
    shares that are none.
    """

    def __init__(
        self,
        inner: TransportLike | None = None,
        *,
        seed: int,
        refuse: float = 0.0,
        status_429: float = 0.0,
        status_500: float = 0.0,
        slow_headers: float = 0.0,
        slow_headers_s: float = 1.0,
        reset_before_headers: float = 0.0,
        reset_mid_stream: float = 0.0,
        stall: float = 0.0,
        split_bytes: int | None = None,
    ) -> None:
        self._shares: dict[FaultName, float] = {
            "refuse": refuse,
            "status_429": status_429,
            "status_500": status_500,
            "slow_headers": slow_headers,
            "reset_before_headers": reset_before_headers,
            "reset_mid_stream": reset_mid_stream,
            "stall": stall,
        }
        _check(self._shares, slow_headers_s, split_bytes)
        self._inner: Transport = default_transport() if inner is None else as_transport(inner)
        self._seed = seed
        self._slow_headers_s = slow_headers_s
        self._split_bytes = split_bytes
        self._num_alike: Counter[str] = Counter()
        self.num_injected: Counter[FaultName] = Counter()

    async def send(self, request: WireRequest, *, attempt: AttemptTiming) -> WireResponse:
        random = self._random(request)
        fault = self._draw(random)
        if fault is not None:
            self.num_injected[fault] += 1
        if fault == "refuse":
            raise ConnectError(f"cannot connect to {request.url}: refused by a fault", refused=True)
        if fault in ("status_429", "status_500"):
            return _Refusal(int(fault.removeprefix("status_")))
        response = await self._inner.send(request, attempt=attempt)
        try:
            if fault == "slow_headers":
                await asyncio.sleep(self._slow_headers_s)
            if fault == "reset_before_headers":
                raise ConnectionLost("the connection was reset by a fault before the answer")
        except BaseException:
            response.abort()
            await response.aclose()
            raise
        if fault not in ("reset_mid_stream", "stall"):
            fault = None
        if fault is None and self._split_bytes is None:
            return response
        return _FaultyResponse(response, fault, random, split_bytes=self._split_bytes)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def _random(self, request: WireRequest) -> Random:
        content = f"{request.method} {request.url.partition('//')[2].partition('/')[2]} ".encode()
        alike = hashlib.sha256(content + (request.body or b"")).hexdigest()
        number = self._num_alike[alike]
        self._num_alike[alike] += 1
        return Random(f"{self._seed} {alike} {number}")

    def _draw(self, random: Random) -> FaultName | None:
        point = random.random()
        for fault, share in self._shares.items():
            if point < share:
                return fault
            point -= share
        return None


class _FaultyResponse:
    """The response below, cut short, stalled or in small pieces."""

    def __init__(
        self,
        response: WireResponse,
        fault: FaultName | None,
        random: Random,
        *,
        split_bytes: int | None,
    ) -> None:
        self._response = response
        self._fault = fault
        self._random = random
        self._split_bytes = split_bytes
        self._num_bytes_left = (
            math.inf if fault is None else random.randrange(_MAX_BYTES_BEFORE_FAULT)
        )
        self._came = b""  # read below and not given on yet
        self._is_aborted = asyncio.Event()

    @property
    def status(self) -> int:
        return self._response.status

    @property
    def headers(self) -> Mapping[str, str]:
        return self._response.headers

    @property
    def at_end(self) -> bool:
        return self._fault is None and not self._came and self._response.at_end

    def read_nowait(self) -> bytes:
        if not self._came and self._num_bytes_left > 0:
            self._came = self._response.read_nowait()
        return self._give()

    async def read_some(self) -> bytes:
        if self._num_bytes_left <= 0:
            await self._fail()
        if not self._came:
            self._came = await self._response.read_some()
        if not self._came and self._fault is not None:
            await self._fail()
        return self._give()

    def abort(self) -> None:
        self._came = b""
        self._is_aborted.set()
        self._response.abort()

    async def aclose(self) -> None:
        if self._came or self._fault is not None:
            self.abort()
        await self._response.aclose()

    def _give(self) -> bytes:
        size = len(self._came)
        if size and self._split_bytes is not None:
            size = self._random.randint(1, min(size, self._split_bytes))
        size = int(min(size, self._num_bytes_left))
        data, self._came = self._came[:size], self._came[size:]
        self._num_bytes_left -= size
        return data

    async def _fail(self) -> None:
        if self._fault == "stall":
            await self._is_aborted.wait()
        self._response.abort()
        raise ConnectionLost("the connection was reset by a fault in the middle of the answer")


class _Refusal:
    """An answer that no server gave."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.headers: Mapping[str, str] = Headers([("content-type", "application/json")])
        error = {"message": "asked to fail by a fault", "type": "injected_fault"}
        self._body = msgspec.json.encode({"error": error})

    @property
    def at_end(self) -> bool:
        return not self._body

    def read_nowait(self) -> bytes:
        body, self._body = self._body, b""
        return body

    async def read_some(self) -> bytes:
        return self.read_nowait()

    def abort(self) -> None:
        self._body = b""

    async def aclose(self) -> None:
        """There is no connection."""


def _check(
    shares: Mapping[FaultName, float], slow_headers_s: float, split_bytes: int | None
) -> None:
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}; it must be a probability from 0 to 1")
    if sum(shares.values()) > 1 + 1e-9:
        raise ValueError(f"the faults' shares add up to {sum(shares.values()):g}; at most 1 fits")
    if not slow_headers_s >= 0:
        raise ValueError(f"slow_headers_s is {slow_headers_s}; it must not be negative")
    if split_bytes is not None and split_bytes < 1:
        raise ValueError(f"split_bytes is {split_bytes}; it must be at least 1")
