"""A script of `FakeLLMServer` that answers every generating route, whole or streamed."""

from __future__ import annotations

from typing import Any

from tests.support.fake_adapter_routes import PATH, FakeAdapterRoutes
from tests.support.fake_llm_server import (
    ReceivedRequest,
    Reply,
    chat_answer,
    chat_chunk,
    completion,
    usage_chunk,
)

TIMINGS: dict[str, Any] = {
    "request_id": "r",
    "adapter": None,
    "queue_ms": 2.0,
    "prefill_ms": 3.0,
    "decode_ms": 4.0,
    "cached_tokens": 1,
    "steps": 2,
    "max_batch": 1,
    "preemptions": 0,
}


class Talking:
    """Says `words`, a token each, with the adapter's name in front of the first."""

    def __init__(self, *words: str) -> None:
        self.words = words or ("Arr", ", ", "matey!")
        self.routes = FakeAdapterRoutes(pirate="/adapters/pirate", sql="/adapters/sql")
        self.missing: set[str] = set()

    async def __call__(self, request: ReceivedRequest, reply: Reply) -> None:
        if request.path == "/health":
            await reply.plain(200, b"")
            return
        if request.path.startswith(PATH):
            await self.routes(request, reply)
            return
        body = request.json
        if body["model"] in self.missing:
            message = f"The model {body['model']!r} does not exist."
            error = {"message": message, "type": "NotFoundError", "code": "model_not_found"}
            await reply.json(404, {"error": error})
            return
        is_chat = request.path.endswith("/chat/completions")
        words = [f"{body['model'] or 'base'}: {self.words[0]}", *self.words[1:]]
        if not body.get("stream"):
            text = "".join(words)
            answer = (
                chat_answer(text, timings=TIMINGS)
                if is_chat
                else completion(text, finish_reason="stop", timings=TIMINGS)
            )
            await reply.json(200, answer)
            return
        chunks = [
            chat_chunk({"content": word}, token_ids=[index])
            if is_chat
            else completion(word, token_ids=[index])
            for index, word in enumerate(words)
        ]
        end = (
            chat_chunk({}, finish_reason="stop")
            if is_chat
            else completion("", finish_reason="stop")
        )
        await reply.stream(*chunks, end, usage_chunk(3, len(words), timings=TIMINGS))
