"""`Request`: one item of a batch with options of its own."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias, Unpack

from lorry.chat import Messages
from lorry.options import ChatOptions, GenerateOptions, canonical

Prompt: TypeAlias = str | Sequence[int]


class Request:
    """A prompt, or a conversation, with options that win over those that the batch shares.

        Request("Ahoy", adapter="pirate", tag=7)
        Request(messages=[{"role": "user", "content": "Ahoy"}])

    Raises TypeError for an unknown option, and unless exactly one of both is given.
    """

    __slots__ = ("messages", "options", "prompt")

    def __init__(
        self,
        prompt: Prompt | None = None,
        *,
        messages: Messages | None = None,
        **options: Unpack[ChatOptions],
    ) -> None:
        if (prompt is None) == (messages is None):
            raise TypeError("a Request is made of a prompt or of messages: give one of them")
        self.prompt = prompt
        self.messages = messages
        self.options: Mapping[str, Any] = canonical(
            options, known=GenerateOptions if messages is None else ChatOptions
        )

    def __repr__(self) -> str:
        if self.prompt is None:
            content = f"{len(self.messages or ())} messages"
        else:
            unit = "characters" if isinstance(self.prompt, str) else "token ids"
            content = f"{len(self.prompt)} {unit}"
        return f"Request({content}, {', '.join(self.options) or 'no options'})"


Item: TypeAlias = str | Sequence[int] | Request
Items: TypeAlias = Iterable[Item] | AsyncIterable[Item]


def as_request(item: object, *, index: int) -> Request:
    """What one item of the input asks for; raises TypeError that names its place."""
    if isinstance(item, Request):
        return item
    if isinstance(item, Sequence) and not isinstance(item, (bytes, bytearray)):
        if not isinstance(item, str) and item and isinstance(item[0], Mapping):
            raise TypeError(
                f"item {index} is a list of messages; give lorry.Request(messages=...) for it"
            )
        return Request(item)
    raise TypeError(
        f"item {index} is of type {type(item).__name__}; it must be a string, a sequence of token "
        "ids, or a lorry.Request"
    )
