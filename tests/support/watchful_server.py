"""A loopback server that knows which requests are open and when each ended, made for thousands.

Much lighter than `FakeLLMServer`, and not scripted: what it does with a request it draws by lot.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Self, cast

ANSWER = (
    b'{"id":"c","object":"text_completion","created":1,"model":"m","choices":'
    b'[{"index":0,"text":"x","finish_reason":"stop"}]}'
)
TOKEN = (
    b'data: {"id":"c","object":"text_completion","created":1,"model":"m","choices":'
    b'[{"index":0,"text":"x","token_ids":[1]}]}\n\n'
)
LAST = (
    b'data: {"id":"c","object":"text_completion","created":1,"model":"m","choices":'
    b'[{"index":0,"text":"","finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
BUSY = b"HTTP/1.1 503 Busy\r\nretry-after: 30\r\ncontent-length: 0\r\n\r\n"
TOKEN_PAUSE_S = 0.002
NUM_TOKENS = 12
POLL_S = 0.01


class WatchfulServer:
    """`async with WatchfulServer(seed=1) as server:` serves at `server.url`; `clock` is of its stamps."""

    def __init__(self, *, seed: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.draw = random.Random(seed)
        self.open_requests: set[str] = set()
        self.ended_at: dict[str, float] = {}
        self.num_requests = 0
        self.num_connections = 0
        self._transports: set[asyncio.Transport] = set()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", 0, backlog=1024
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for transport in list(self._transports):
            transport.abort()
        await asyncio.sleep(0)

    async def is_idle(self, *, within_s: float) -> bool:
        """Wait until no request and no connection is open."""
        for _ in range(int(within_s / POLL_S)):
            if not self.open_requests and not self.num_connections:
                return True
            await asyncio.sleep(POLL_S)
        return False

    def began(self, request_id: str) -> None:
        self.num_requests += 1
        self.open_requests.add(request_id)

    def ended(self, request_id: str) -> None:
        self.open_requests.discard(request_id)
        self.ended_at[request_id] = self._clock()


class _Connection(asyncio.Protocol):
    def __init__(self, server: WatchfulServer) -> None:
        self._server = server
        self._received = b""
        self._request_id: str | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # one that writes, as TCP's does
        self._server.num_connections += 1
        self._server._transports.add(self._transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._server.num_connections -= 1
        self._server._transports.discard(self._transport)
        self._end()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
        if len(body) < int(fields.get(b"content-length", b"0")):
            return
        self._received = b""
        self._request_id = fields[b"x-request-id"].decode()
        self._server.began(self._request_id)
        self._answer(is_streamed=b'"stream":true' in body)

    def _answer(self, *, is_streamed: bool) -> None:
        lot = self._server.draw.random()
        if lot < 0.15:
            self._transport.write(BUSY)
            self._end()
        elif lot < 0.4:
            pass  # silent for good
        elif is_streamed:
            self._transport.write(HEAD)
            if lot < 0.9:
                self._go_on(NUM_TOKENS)
        else:
            self._timer = asyncio.get_running_loop().call_later(
                self._server.draw.random() * TOKEN_PAUSE_S * 5, self._answer_whole
            )

    def _go_on(self, num_left: int) -> None:
        if num_left == 0:
            self._transport.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(LAST), LAST))
            self._end()
            return
        self._transport.write(b"%x\r\n%s\r\n" % (len(TOKEN), TOKEN))
        self._timer = asyncio.get_running_loop().call_later(
            TOKEN_PAUSE_S, self._go_on, num_left - 1
        )

    def _answer_whole(self) -> None:
        is_half = self._server.draw.random() < 0.2
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
            % (len(ANSWER), ANSWER[: len(ANSWER) // 2] if is_half else ANSWER)
        )
        if not is_half:
            self._end()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        request_id, self._request_id = self._request_id, None
        if request_id is not None:
            self._server.ended(request_id)
