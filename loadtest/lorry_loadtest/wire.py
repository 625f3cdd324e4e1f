"""Turns a planned request into the bytes of an OpenAI route."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

from lorry.types.chat import ChatMessage, ChatRequest
from lorry.types.common import StreamOptions
from lorry.types.completions import CompletionRequest
from lorry_loadtest.endpoint import Endpoint
from lorry_loadtest.http1 import encode_request
from lorry_loadtest.workload import PlannedRequest

Route = Literal["completions", "chat"]

PATHS: dict[Route, str] = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}


@dataclass(frozen=True, slots=True)
class Wire:
    """What all requests of a run have in common. `base_model` is sent where no adapter is chosen.

    Decoding is greedy, so that a request costs the same each time. `states_tokens` asks the server
    for the token ids of every chunk, which tell how many tokens came in it.
    """

    endpoint: Endpoint
    base_model: str
    route: Route = "completions"
    api_key: str | None = None
    ignore_eos: bool = False
    states_tokens: bool = True

    def encode(self, planned: PlannedRequest) -> bytes:
        """The whole HTTP request."""
        headers = {"Accept": "text/event-stream"}
        if self.api_key:
            headers["Authorization"] = f"Bearer {self.api_key}"
        return encode_request(
            "POST",
            PATHS[self.route],
            endpoint=self.endpoint,
            headers=headers,
            body=msgspec.json.encode(self._request(planned)),
        )

    def _request(self, planned: PlannedRequest) -> CompletionRequest | ChatRequest:
        model = planned.adapter or self.base_model
        options = StreamOptions(include_usage=True)
        if self.route == "chat":
            return ChatRequest(
                model=model,
                messages=[ChatMessage(role="user", content=planned.prompt)],
                max_tokens=planned.max_tokens,
                temperature=0.0,
                ignore_eos=self.ignore_eos,
                stream=True,
                stream_options=options,
                return_token_ids=self.states_tokens,
            )
        return CompletionRequest(
            model=model,
            prompt=planned.prompt,
            max_tokens=planned.max_tokens,
            temperature=0.0,
            ignore_eos=self.ignore_eos,
            stream=True,
            stream_options=options,
            return_token_ids=self.states_tokens,
        )
