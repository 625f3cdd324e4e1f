"""`ToolCall`: a function that the model asks to have called, put together from pieces if streamed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from lorry.types.chat import MessageToolCall


class ToolCall(msgspec.Struct, frozen=True):
    """One call. `arguments` is the model's own text, which need not be valid JSON."""

    id: str
    name: str
    arguments: str

    def parsed(self) -> Any:
        """The arguments as Python values; raises ValueError when they are not JSON."""
        try:
            return msgspec.json.decode(self.arguments or "{}")
        except msgspec.DecodeError as error:
            raise ValueError(f"the arguments of {self.name!r} are not JSON: {error}") from error

    def to_message(self) -> dict[str, Any]:
        """As OpenAI has it in an assistant's message."""
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }


class ToolCallBuilder:
    """Collects calls. Pieces of one call share an index; a whole answer's calls have none."""

    def __init__(self) -> None:
        self._calls: dict[int, _Parts] = {}

    def add(self, pieces: Sequence[MessageToolCall]) -> None:
        """Take what one chunk, or the answer, says of tool calls."""
        for piece in pieces:
            index = len(self._calls) if piece.index is None else piece.index
            parts = self._calls.setdefault(index, _Parts())
            # OpenAI names the call in its first piece only; others repeat the name in each
            parts.id = parts.id or piece.id or ""
            parts.name = parts.name or piece.function.name or ""
            parts.arguments.append(piece.function.arguments or "")

    def build(self) -> tuple[ToolCall, ...]:
        """The calls so far, in the order of their indices."""
        return tuple(
            ToolCall(parts.id, parts.name, "".join(parts.arguments))
            for _, parts in sorted(self._calls.items())
        )


class _Parts:
    __slots__ = ("arguments", "id", "name")

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []
