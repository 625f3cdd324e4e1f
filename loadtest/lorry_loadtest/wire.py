"""Turns a planned request into the bytes of the route that it takes."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

import msgspec

from lorry.types.chat import ChatMessage, ChatRequest
from lorry.types.common import StreamOptions
from lorry.types.completions import CompletionRequest
from lorry.types.lorax import GenerateParameters, GenerateRequest
from lorry_loadtest.endpoint import Endpoint
from lorry_loadtest.http1 import encode_request
from lorry_loadtest.planned import PlannedRequest
from lorry_loadtest.routes import PATHS


@dataclass(frozen=True, slots=True)
class Wire:
    """What all requests of a run have in common. `base_model` is sent where no adapter is chosen.

    Decoding is greedy, so that a request costs the same each time. `states_tokens` asks the server
    for the token ids of every chunk, which tell how many tokens came in it. `run_id` makes the
    request ids of this run unlike those of any other, so that server and client records join.
    """

    endpoint: Endpoint
    base_model: str
    api_key: str | None = field(default=None, repr=False)
    ignore_eos: bool = False
    states_tokens: bool = True
    run_id: str = field(default_factory=lambda: secrets.token_hex(4))

    def request_id(self, planned: PlannedRequest) -> str:
        """Sent as `x-request-id`; canaries that are learned have negative indices."""
        return f"load-{self.run_id}-{planned.index}"

    def encode(self, planned: PlannedRequest, *, request_id: str) -> bytes:
        """The whole HTTP request."""
        headers = {
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",  # a compressor holds tokens back
            "X-Request-Id": request_id,
        }
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return encode_request(
            "POST",
            PATHS[planned.route],
            endpoint=self.endpoint,
            headers=headers,
            body=msgspec.json.encode(self._request(planned)),
        )

    def _request(
        self, planned: PlannedRequest
    ) -> CompletionRequest | ChatRequest | GenerateRequest:
        model = planned.adapter or self.base_model
        options = StreamOptions(include_usage=True)
        if planned.route == "lorax":
            return GenerateRequest(
                inputs=_one_text(planned),
                parameters=GenerateParameters(
                    adapter_id=planned.adapter,
                    max_new_tokens=planned.max_tokens,
                    do_sample=False,
                    ignore_eos_token=self.ignore_eos or None,
                    details=True,
                ),
            )
        if planned.route == "chat":
            return ChatRequest(
                model=model,
                messages=_messages(planned),
                max_tokens=planned.max_tokens,
                temperature=0.0,
                ignore_eos=self.ignore_eos,
                stream=True,
                stream_options=options,
                return_token_ids=self.states_tokens,
            )
        return CompletionRequest(
            model=model,
            prompt=_one_text(planned),
            max_tokens=planned.max_tokens,
            temperature=0.0,
            ignore_eos=self.ignore_eos,
            stream=True,
            stream_options=options,
            return_token_ids=self.states_tokens,
        )


def _one_text(planned: PlannedRequest) -> str:
    return "\n".join((*planned.history, planned.prompt))


def _messages(planned: PlannedRequest) -> list[ChatMessage]:
    turns = (*planned.history, planned.prompt)
    return [
        ChatMessage(role="user" if place % 2 == 0 else "assistant", content=text)
        for place, text in enumerate(turns)
    ]
