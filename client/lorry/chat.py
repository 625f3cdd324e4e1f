"""`client.chat`: conversations, by the model's own chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, Unpack

from lorry.assembly import CHAT
from lorry.generate_route import GenerateRoute
from lorry.generation import Generation
from lorry.options import ChatOptions
from lorry.request_body import chat_body
from lorry.session import Session
from lorry.stream import TokenStream
from lorry.types.chat import ChatMessage

Messages: TypeAlias = Sequence[Mapping[str, Any] | ChatMessage]


class Chat:
    """`await client.chat(messages)` and `client.chat.stream(messages)`.

    Messages are dicts as OpenAI has them, `{"role": "user", "content": "..."}`, or `ChatMessage`s.
    Options and results are those of `AsyncClient.generate` and `AsyncClient.stream`; tools are taken
    as OpenAI has them, and what the model calls is `Generation.tool_calls`.
    """

    def __init__(self, session: Session) -> None:
        self.route = GenerateRoute(
            session,
            "/v1/chat/completions",
            encode_body=chat_body,
            dialect=CHAT,
            known=ChatOptions,
        )

    async def __call__(self, messages: Messages, **options: Unpack[ChatOptions]) -> Generation:
        """The assistant's next message."""
        return await self.route.generate(messages, options)

    def stream(self, messages: Messages, **options: Unpack[ChatOptions]) -> TokenStream:
        """The assistant's next message, token by token."""
        return self.route.stream(messages, options)
