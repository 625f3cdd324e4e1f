"""`Conversation`: what was said in a chat, by whom it is answered, and under which instructions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from lorry.generation import Generation

Message = dict[str, Any]


class Conversation:
    """Messages as OpenAI has them. A question stays only if it was answered."""

    def __init__(self, *, adapter: str = "", system: str | None = None) -> None:
        self.adapter = adapter
        self.system = system
        self._turns: list[Message] = []

    @property
    def messages(self) -> list[Message]:
        """All of it, with the system message in front."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, *self._turns]

    @property
    def last_question(self) -> str | None:
        """The user's last message that was answered."""
        questions = [turn["content"] for turn in self._turns if turn["role"] == "user"]
        return questions[-1] if questions else None

    def asking(self, question: str) -> list[Message]:
        """The messages to send for one more question."""
        return [*self.messages, {"role": "user", "content": question}]

    def asking_again(self) -> list[Message]:
        """The messages to send for the last question once more."""
        end = max(index for index, turn in enumerate(self._turns) if turn["role"] == "user")
        return self.messages[: len(self.messages) - len(self._turns) + end + 1]

    def answered(self, question: str, answer: Generation) -> None:
        """Keep a question and its answer, whole or stopped."""
        self._turns += [{"role": "user", "content": question}, answer.message]

    def reset(self) -> None:
        """Forget what was said; adapter and system message stay."""
        self._turns.clear()

    def save(self, path: Path) -> None:
        """Write the conversation as one line of JSON, as `lorry finetune --data` reads it."""
        path.expanduser().write_bytes(msgspec.json.encode({"messages": self.messages}) + b"\n")
