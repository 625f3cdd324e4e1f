"""`TextEvent`: an event of which nothing but one text changes, encoded once for all of them."""

from __future__ import annotations

from typing import Any

from lorry_server.http.json_response import encode_json
from lorry_server.http.sse import event


class TextEvent:
    """Stands for `message`, whose `field` holds an empty string, with other texts in that place.

    Most events of a stream bring a token's text and nothing else, so there is one encoding to do
    for a token: its own.
    """

    def __init__(self, message: Any, *, field: str) -> None:
        # Inside a JSON string the quotes would be escaped, so this is found at the field only.
        name = f'"{field}":'.encode()
        self._head, found, self._tail = event(message).partition(name + b'""')
        assert found, f"the message has no empty {field}"
        self._head += name

    def holding(self, text: str) -> bytes:
        return self._head + encode_json(text) + self._tail
