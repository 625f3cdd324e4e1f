"""Which of a stream's requests are turns of one conversation, and so go to one adapter."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Conversation:
    """Its `number` among those of the stream, and the index of its first request."""

    number: int
    first_index: int
