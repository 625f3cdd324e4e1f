"""A server of the OpenAI and LoRAX routes whose token times are known, without a model:
`python -m lorry_loadtest.mock_server`.

`GET /mock/served` tells when each request was read and each event written. `/v1/models`, `/info`,
`/metrics` and `/v1/steps` are answered as a real server does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from lorry_loadtest.mock_events import BASE_MODEL, Asked, whole_answer
from lorry_loadtest.mock_faults import FAULTS, MEANING, Fault
from lorry_loadtest.mock_stream import MockTimes, Player, Score, ServedRequest, compose

SLOW_ADAPTER = 6.0
INFO = {
    "version": "mock",
    "sha": None,
    "model_dtype": "float32",
    "model_device_type": "cpu",
    "quantization": "none",
}


@dataclass(slots=True)
class MockServer:
    """Serves on loopback between `start` and `stop`. `faults` names requests by their number.

    With `stall_at_s` the whole process sleeps for `stall_s` so long after it was started, as if it
    had been stopped by a signal. One that does not tell of itself has no metrics and no steps.
    """

    times: MockTimes = field(default_factory=MockTimes)
    adapters: tuple[str, ...] = ("alpha", "beta")
    faults: Mapping[int, Fault] = field(default_factory=dict)
    fault_every: int = 0
    fault: Fault = "http_500"
    stall_at_s: float | None = None
    stall_s: float = 0.0
    tells_of_itself: bool = True
    served: list[ServedRequest] = field(default_factory=list)
    num_connections: int = 0
    num_open: int = 0
    num_finished: int = 0
    connections: set[MockConnection] = field(default_factory=set)
    _server: asyncio.Server | None = None

    async def start(self, *, port: int = 0) -> int:
        """Returns the port that was bound."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: MockConnection(self), "127.0.0.1", port, backlog=4096
        )
        if self.stall_at_s is not None:
            loop.call_later(self.stall_at_s, time.sleep, self.stall_s)
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self) -> None:
        if self._server is None:
            return
        self._server.close()
        for connection in tuple(self.connections):
            connection.abort()
        await self._server.wait_closed()
        self._server = None

    def fault_of(self, number: int) -> Fault | None:
        if self.fault_every and number % self.fault_every == self.fault_every - 1:
            return self.fault
        return self.faults.get(number)

    def other_model(self, model: str) -> str:
        """Somebody else's name, for the fault of a wrong adapter."""
        names = [name for name in (*self.adapters, BASE_MODEL) if name != model]
        return names[0]

    def look_up(self, path: str) -> bytes:
        """The answer to a GET."""
        match path.partition("?")[0].rstrip("/").rpartition("/")[2]:
            case "models":
                return whole_answer(200, msgspec.json.encode(self._models()))
            case "metrics" if self.tells_of_itself:
                return whole_answer(200, self._metrics().encode(), content_type=b"text/plain")
            case "steps" if self.tells_of_itself:
                return whole_answer(200, msgspec.json.encode(self._steps(path)))
            case "info" if self.tells_of_itself:
                return whole_answer(200, msgspec.json.encode(INFO))
            case "served":
                return whole_answer(200, msgspec.json.encode(self._served_times()))
        return whole_answer(404, b'{"error": "no route"}')

    def _models(self) -> dict[str, Any]:
        cards = [{"id": BASE_MODEL, "object": "model", "created": 0}]
        cards += [
            {"id": name, "object": "model", "created": 0, "parent": BASE_MODEL}
            for name in self.adapters
        ]
        return {"object": "list", "data": cards}

    def _metrics(self) -> str:
        label = f'{{model_name="{BASE_MODEL}"}}'
        num_tokens = sum(served.num_tokens for served in self.served)
        return (
            f"# TYPE vllm:generation_tokens_total counter\n"
            f"vllm:generation_tokens_total{label} {num_tokens}\n"
            f"vllm:request_success_total{label} {self.num_finished}\n"
            f"vllm:num_requests_running{label} {self.num_open}\n"
            f"vllm:num_requests_waiting{label} 0\n"
        )

    def _steps(self, path: str) -> dict[str, Any]:
        """One step for each event that was written, as if each had been computed by itself."""
        query = dict(
            part.split("=", 1) for part in path.partition("?")[2].split("&") if "=" in part
        )
        limit = int(query.get("limit", 100))
        ends_ns = sorted(stamp for served in self.served for stamp in served.sent_ns)
        since = int(query.get("since", max(0, len(ends_ns) - limit)))
        wall_ns = time.time_ns() - time.perf_counter_ns()
        gap_ms = self.times.gap_ms
        steps = [
            {
                "index": index,
                "start_ns": end_ns - round(gap_ms * 1e6),
                "start_ms": (end_ns + wall_ns) / 1e6 - gap_ms,
                "step_ms": gap_ms,
                "batch": 1,
                "prefill_tokens": 0,
                "decode_tokens": 1,
                "adapters": 1,
                "running": self.num_open,
                "waiting": 0,
                "kv_blocks_used": self.num_open,
                "preemptions": 0,
                "adapter_attaches": 0,
            }
            for index, end_ns in enumerate(ends_ns[since : since + limit], start=since)
        ]
        return {
            "steps": steps,
            "next": since + len(steps),
            "missed": 0,
            "kv_blocks_total": 1000,
        }

    def _served_times(self) -> list[dict[str, Any]]:
        return [
            {
                "request_id": served.request_id,
                "received_ns": served.received_ns,
                "sent_ns": served.sent_ns,
            }
            for served in self.served
        ]


class MockConnection(asyncio.Protocol):
    """One client's connection; answers one request after the other."""

    def __init__(self, server: MockServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._player: Player | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._server.num_connections += 1
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        if self._player is not None:
            self._player.stop()
            self._player = None
            self._server.num_open -= 1

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._answer_next()

    def _answer_next(self) -> None:
        """Answers what has come whole, unless an answer is still being written."""
        if self._player is not None or self._transport is None:
            return
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        received_ns = time.perf_counter_ns()
        method, path, _ = first.split(" ", 2)
        if method == "GET":
            self._transport.write(self._server.look_up(path))
            self._answer_next()
            return
        asked = Asked(
            msgspec.json.decode(rest[:length]),
            path,
            headers.get("x-request-id", f"mock-{len(self._server.served)}"),
        )
        self._stream(asked, received_ns)

    def _stream(self, asked: Asked, received_ns: int) -> None:
        server, transport = self._server, self._transport
        assert transport is not None
        served = ServedRequest(asked.body, received_ns, asked.request_id)
        server.served.append(served)
        fault = server.fault_of(len(server.served) - 1)
        if fault in ("http_429", "http_500"):
            error = {"message": f"asked to fail with {fault}", "type": fault}
            transport.write(whole_answer(int(fault[-3:]), msgspec.json.encode({"error": error})))
            self._answer_next()
            return
        if fault == "hang":
            return
        server.num_open += 1
        stretch = 1 + server.times.slowdown * (server.num_open - 1)
        if fault == "slow_adapter" and asked.model == server.adapters[0]:
            stretch *= SLOW_ADAPTER
        score = compose(
            asked,
            times=server.times,
            received_ns=received_ns,
            stretch=stretch,
            num_open=server.num_open,
            other_model=server.other_model(asked.model),
            fault=fault,
        )
        self._player = Player(score, served=served, transport=transport, on_end=self._end)
        self._player.play()

    def _end(self, score: Score) -> None:
        assert self._transport is not None
        self._player = None
        self._server.num_open -= 1
        self._server.num_finished += score.is_whole
        if not score.keeps_alive:
            self._transport.close()
            return
        self._answer_next()


async def _run(server: MockServer, port: int) -> None:
    bound = await server.start(port=port)
    print(f"mock server on http://127.0.0.1:{bound}", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await server.stop()


def main() -> None:
    """Serves until it is interrupted."""
    parser = argparse.ArgumentParser(
        description="A server with known token times, on loopback.",
        epilog="faults: " + "; ".join(f"{name}: {meaning}" for name, meaning in MEANING.items()),
    )
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--first-ms", type=float, default=50.0, help="time to the first token")
    parser.add_argument("--gap-ms", type=float, default=10.0, help="time between tokens")
    parser.add_argument("--slowdown", type=float, default=0.0, help="stretch per other stream")
    parser.add_argument("--tokens-per-event", type=int, default=1)
    parser.add_argument("--adapters", default="alpha,beta", help="names, with commas between")
    parser.add_argument("--fault-every", type=int, default=0, help="every n-th request fails")
    parser.add_argument("--fault", choices=FAULTS, default="http_500", help="and how")
    parser.add_argument("--stall-at", type=float, default=None, metavar="S", help="stop after S")
    parser.add_argument("--stall-for", type=float, default=0.0, metavar="S", help="and for S")
    options = parser.parse_args()
    server = MockServer(
        times=MockTimes(
            first_ms=options.first_ms,
            gap_ms=options.gap_ms,
            slowdown=options.slowdown,
            tokens_per_event=options.tokens_per_event,
        ),
        adapters=tuple(name for name in options.adapters.split(",") if name),
        fault_every=options.fault_every,
        fault=options.fault,
        stall_at_s=options.stall_at,
        stall_s=options.stall_for,
    )
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(server, options.port))


if __name__ == "__main__":
    main()
