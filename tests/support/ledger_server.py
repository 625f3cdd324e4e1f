"""A server that keeps a ledger: for every idempotency key, what arrived, what ran, what was sent.

It also puts faults in the way, drawn by seed for each key and arrival, so that a run is the same
whatever the order in which requests come.
"""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import dataclass

from tests.support.fake_llm_server import ReceivedRequest, Reply, completion, event

NOT_RUN = ("reset before the request is read", "429", "503")
RUN = (
    "reset before the headers",
    "reset after the headers",
    "cut in the middle",
    "slow",
)
BY_A_PROXY = ("delivered twice",)


@dataclass
class Entry:
    """What a server did for one key."""

    num_arrivals: int = 0
    num_executions: int = 0
    num_joined: int = 0
    num_arrivals_after_first_byte: int = 0
    is_first_byte_sent: bool = False
    is_sent_whole: bool = False
    fault: str | None = None


class LedgerServer:
    """The script of a `FakeLLMServer`; `share` of the arrivals meet a fault.

    One that heeds keys says so by repeating them, and gives a second copy the answer of the first or
    refuses it. One that does not runs whatever reaches it.
    """

    def __init__(self, *, seed: int, share: float, heeds_keys: bool) -> None:
        self.entries: dict[str, Entry] = {}
        self._seed = seed
        self._share = share
        self._heeds_keys = heeds_keys
        self._faults = NOT_RUN + RUN + (BY_A_PROXY if heeds_keys else ())

    async def __call__(self, request: ReceivedRequest, reply: Reply) -> None:
        key = request.headers["idempotency-key"]
        entry = self.entries.setdefault(key, Entry())
        entry.num_arrivals += 1
        entry.num_arrivals_after_first_byte += entry.is_first_byte_sent
        draw = random.Random(f"{self._seed}:{key}:{entry.num_arrivals}")
        fault = draw.choice(self._faults) if draw.random() < self._share else None
        entry.fault = fault
        if fault == "reset before the request is read":
            reply.cut()
        elif fault in ("429", "503"):
            await reply.json(int(fault), {"error": "full"}, retry_after_ms="2", **self._echo(key))
        elif self._heeds_keys and entry.num_executions and draw.random() < 0.5:
            detail = {
                "message": "this ran already",
                "type": "conflict",
                "code": "duplicate_request",
            }
            entry.is_first_byte_sent = True
            await reply.json(409, {"error": detail}, **self._echo(key))
        else:
            await self._run(key, entry, fault, request, reply)

    async def _run(
        self, key: str, entry: Entry, fault: str | None, request: ReceivedRequest, reply: Reply
    ) -> None:
        self._execute(entry)
        if fault == "delivered twice":
            self._execute(entry)  # the copy
        if fault == "slow":
            await asyncio.sleep(0.02)
        if fault == "reset before the headers":
            reply.cut()
            return
        head, body = _answer(
            key, is_streamed=bool(request.json.get("stream")), headers=self._echo(key)
        )
        entry.is_first_byte_sent = True
        if fault == "reset after the headers":
            await reply.raw(head)
            reply.cut()
        elif fault == "cut in the middle":
            await reply.raw(head + body[: len(body) // 2])
            reply.cut()
        else:
            await reply.raw(head + body)
            entry.is_sent_whole = True

    def _execute(self, entry: Entry) -> None:
        if self._heeds_keys and entry.num_executions:
            entry.num_joined += 1
        else:
            entry.num_executions += 1

    def _echo(self, key: str) -> dict[str, str]:
        return {"idempotency_key": key} if self._heeds_keys else {}


def text_of(key: str) -> str:
    """What the model makes of the request with this key."""
    return f"answer to {key}"


def _answer(key: str, *, is_streamed: bool, headers: dict[str, str]) -> tuple[bytes, bytes]:
    """Head and body of a whole answer."""
    if is_streamed:
        words = text_of(key).split(" ")
        chunks = [completion(word + " ", token_ids=[i]) for i, word in enumerate(words[:-1])]
        last = completion(words[-1], token_ids=[9], finish_reason="stop")
        body = b"".join(event(payload) for payload in (*chunks, last, "[DONE]"))
        kind = "text/event-stream"
    else:
        body = json.dumps(completion(text_of(key), finish_reason="stop")).encode()
        kind = "application/json"
    lines = ["HTTP/1.1 200 OK", f"content-type: {kind}", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n", body
