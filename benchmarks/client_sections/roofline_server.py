"""A server that does next to nothing: replies are made beforehand, only `max_tokens` is looked at.

    roofline_server.py [--gap-ms MS]

Prints its port, then serves `/v1/completions` and LoRAX's `/` until its standard input ends. Each
event of a stream is a chunk and a write of its own: as fast as the socket takes them, or `gap-ms`
apart, so that each wakes its reader. Uses nothing but the standard library.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import re
import resource
import sys
from functools import cache
from typing import Any

_LIMIT = re.compile(rb'"max_(?:new_)?tokens":\s*(\d+)')
_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb'"stream":\s*true')
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


class Roofline(asyncio.Protocol):
    """One connection; requests come one after another."""

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._received = b""
        self._timer: asyncio.Handle | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        length = _LENGTH.search(self._received, 0, head_end)
        end = head_end + 4 + (0 if length is None else int(length[1]))
        if len(self._received) < end:
            return
        body, is_lorax = (
            self._received[head_end + 4 : end],
            not self._received.startswith(b"POST /v1"),
        )
        self._received = self._received[end:]
        limit = _LIMIT.search(body)
        num_tokens = 1 if limit is None else int(limit[1])
        if _STREAM.search(body) is None:
            self._transport.write(whole(num_tokens, is_lorax))
            return
        self._transport.write(_STREAM_HEAD)
        self._write_next(chunks(num_tokens, is_lorax), 0)

    def _write_next(self, pieces: tuple[bytes, ...], index: int) -> None:
        self._transport.write(pieces[index])
        if index + 1 == len(pieces):
            return
        loop = asyncio.get_running_loop()
        if self._gap_s:
            self._timer = loop.call_later(self._gap_s, self._write_next, pieces, index + 1)
        else:
            self._timer = loop.call_soon(self._write_next, pieces, index + 1)


@cache
def whole(num_tokens: int, is_lorax: bool) -> bytes:
    """The answer to a request that is not streamed."""
    text = " word" * num_tokens
    answer: Any
    if is_lorax:
        answer = [{"generated_text": text, "details": _details(num_tokens)}]
    else:
        answer = _completion(text, list(range(num_tokens)), "length")
        answer["usage"] = _usage(num_tokens)
    body = json.dumps(answer).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


@cache
def chunks(num_tokens: int, is_lorax: bool) -> tuple[bytes, ...]:
    """The chunks of a stream, one for each token, with what ends it in the last."""
    payloads = [_event(i, num_tokens, is_lorax) for i in range(num_tokens)]
    if not is_lorax:
        ending = _completion("", [], "length") | {"choices": [], "usage": _usage(num_tokens)}
        payloads += [json.dumps(ending), "[DONE]"]
    events = [f"data: {payload}\n\n".encode() for payload in payloads]
    events[num_tokens - 1 :] = [b"".join(events[num_tokens - 1 :])]
    framed = [b"%x\r\n%s\r\n" % (len(event), event) for event in events]
    framed[-1] += b"0\r\n\r\n"
    return tuple(framed)


def _event(index: int, num_tokens: int, is_lorax: bool) -> str:
    is_last = index == num_tokens - 1
    if not is_lorax:
        return json.dumps(_completion(" word", [index], "length" if is_last else None))
    token = {"id": index, "text": " word", "logprob": -0.5, "special": False, "skipped": False}
    details = _details(num_tokens) if is_last else None
    text = " word" * num_tokens if is_last else None
    return json.dumps({"token": token, "generated_text": text, "details": details})


def _completion(text: str, token_ids: list[int], finish_reason: str | None) -> dict[str, Any]:
    choice = {
        "index": 0,
        "text": text,
        "logprobs": None,
        "finish_reason": finish_reason,
        "token_ids": token_ids,
    }
    return {
        "id": "cmpl-0123456789abcdef",
        "object": "text_completion",
        "created": 1_700_000_000,
        "model": "roofline",
        "choices": [choice],
    }


def _usage(num_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": 8,
        "completion_tokens": num_tokens,
        "total_tokens": 8 + num_tokens,
    }


def _details(num_tokens: int) -> dict[str, Any]:
    return {
        "finish_reason": "length",
        "prompt_tokens": 8,
        "generated_tokens": num_tokens,
        "seed": None,
        "prefill": [],
        "tokens": [],
    }


async def serve(gap_s: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Roofline(gap_s), "127.0.0.1", 0, backlog=8192)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gap-ms", type=float, default=0.0)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.disable()  # thousands of connections are no garbage, and the client is what is measured
    asyncio.run(serve(options.gap_ms / 1000))


if __name__ == "__main__":
    main()
