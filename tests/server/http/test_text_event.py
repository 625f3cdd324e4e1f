"""An event with a hole for its text is the event that was encoded whole."""

from __future__ import annotations

import pytest

from lorry.types.chat import ChatChunkChoice, ChatCompletionChunk, ChatDelta
from lorry.types.completions import Completion, CompletionChoice
from lorry_server.http.sse import event
from lorry_server.http.text_event import TextEvent

TEXTS = ["", " the", '"', "\\", "\n\n", "\u2028\x85é\U0001f600", '"text":""', "data: [DONE]"]
# What an operator calls a model must not be taken for the field.
NAMES = ["tiny", '"text":""', '","content":""', "\\"]


def completion(text: str, *, model: str) -> Completion:
    return Completion(
        id="cmpl-1", created=1, model=model, choices=[CompletionChoice(index=3, text=text)]
    )


def chat_chunk(text: str, *, model: str) -> ChatCompletionChunk:
    choice = ChatChunkChoice(index=3, delta=ChatDelta(content=text))
    return ChatCompletionChunk(id="chatcmpl-1", created=1, model=model, choices=[choice])


@pytest.mark.parametrize("model", NAMES)
@pytest.mark.parametrize("text", TEXTS)
def test_text_stands_where_the_field_is(text: str, model: str) -> None:
    completions = TextEvent(completion("", model=model), field="text")
    chats = TextEvent(chat_chunk("", model=model), field="content")

    assert completions.holding(text) == event(completion(text, model=model))
    assert chats.holding(text) == event(chat_chunk(text, model=model))
