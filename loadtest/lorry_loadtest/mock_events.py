"""The bytes of the mock server's answers, for each of the routes."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import msgspec

BASE_MODEL = "mock-base"

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    b"X-Request-Id: %b\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"
DONE = b"[DONE]"


@dataclass(frozen=True, slots=True)
class Asked:
    """What matters of a request's body, whichever route it took."""

    body: dict[str, Any]
    path: str
    request_id: str

    @property
    def is_lorax(self) -> bool:
        return self.path.endswith("/generate_stream")

    @property
    def is_chat(self) -> bool:
        return "chat" in self.path

    @property
    def max_tokens(self) -> int:
        if self.is_lorax:
            return int(self.body["parameters"]["max_new_tokens"])
        return int(self.body["max_tokens"])

    @property
    def model(self) -> str:
        if self.is_lorax:
            return str(self.body["parameters"].get("adapter_id") or BASE_MODEL)
        return str(self.body["model"] or BASE_MODEL)

    @property
    def prompt(self) -> str:
        if self.is_lorax:
            return str(self.body["inputs"])
        if self.is_chat:
            return "\n".join(message["content"] for message in self.body["messages"])
        return str(self.body["prompt"])

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt.split())

    def word(self, number: int, *, model: str) -> str:
        """The text of token `number`: the same for the same model and prompt, as if greedy."""
        tag = zlib.crc32(f"{model}\0{self.prompt}".encode()) & 0xFFFF
        return f"word{tag:04x}.{number} "


def token_event(asked: Asked, first: int, count: int, *, model: str, is_last: bool) -> bytes:
    """Tokens first, first + 1, ... as one event; LoRAX's last one is made by `last_lorax_event`."""
    text = "".join(asked.word(number, model=model) for number in range(first, first + count))
    if asked.is_lorax:
        return event(_lorax_token(asked, first, model=model))
    said: dict[str, Any] = {"delta": {"content": text}} if asked.is_chat else {"text": text}
    finish_reason = "length" if is_last else None
    token_ids = list(range(first, first + count))
    choice = said | {"index": 0, "finish_reason": finish_reason, "token_ids": token_ids}
    return event(_chunk_of(asked, [choice]))


def finish_event(asked: Asked, reason: str) -> bytes:
    """Says why an answer ended and brings nothing else."""
    said: dict[str, Any] = {"delta": {}} if asked.is_chat else {"text": ""}
    choice = said | {"index": 0, "finish_reason": reason, "token_ids": []}
    return event(_chunk_of(asked, [choice]))


def role_event(asked: Asked) -> bytes:
    said: dict[str, Any] = (
        {"delta": {"role": "assistant", "content": ""}} if asked.is_chat else {"text": ""}
    )
    return event(_chunk_of(asked, [said | {"index": 0, "finish_reason": None}]))


def usage_event(
    asked: Asked,
    num_tokens: int,
    *,
    num_cached: int = 0,
    num_template: int = 0,
    timings: dict[str, Any],
) -> bytes:
    """`num_template` prompt tokens are said to have been there beside the prompt's own."""
    num_prompt = asked.num_prompt_tokens + num_template
    usage: dict[str, Any] = {
        "prompt_tokens": num_prompt,
        "completion_tokens": num_tokens,
        "total_tokens": num_prompt + num_tokens,
    }
    if num_cached:
        usage["prompt_tokens_details"] = {"cached_tokens": num_cached}
    return event(_chunk_of(asked, []) | {"usage": usage, "timings": timings})


def _chunk_of(asked: Asked, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": asked.request_id,
        "object": "chat.completion.chunk" if asked.is_chat else "text_completion",
        "created": 0,
        "model": asked.model,
        "choices": choices,
    }


def last_lorax_event(
    asked: Asked, number: int, *, model: str, num_tokens: int, timings: dict[str, Any]
) -> bytes:
    whole = "".join(asked.word(k, model=model) for k in range(number + 1))
    return event(
        _lorax_token(asked, number, model=model)
        | {
            "generated_text": whole,
            "details": {
                "finish_reason": "length",
                "prompt_tokens": asked.num_prompt_tokens,
                "input_length": asked.num_prompt_tokens,
                "generated_tokens": num_tokens,
                "seed": None,
            },
            "timings": timings,
        }
    )


def _lorax_token(asked: Asked, number: int, *, model: str) -> dict[str, Any]:
    text = asked.word(number, model=model)
    token = {"id": number, "text": text, "logprob": 0.0, "special": False, "skipped": False}
    return {"index": number, "token": token, "generated_text": None, "details": None}


def event(content: dict[str, Any] | bytes) -> bytes:
    """One server-sent event as one chunk of the body."""
    data = content if isinstance(content, bytes) else msgspec.json.encode(content)
    return chunk(b"data: " + data + b"\n\n")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def whole_answer(status: int, body: bytes, *, content_type: bytes = b"application/json") -> bytes:
    return (
        b"HTTP/1.1 %d Mock\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
        % (status, content_type, len(body))
    ) + body
