from __future__ import annotations

import pytest

from lorry_loadtest.answer import Answer
from lorry_loadtest.outcomes import AttemptFailed
from lorry_loadtest.sse import EventSplitter


def feed(answer: Answer, *events: bytes) -> None:
    for event in events:
        answer.feed(event)


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_events_are_split_however_the_bytes_are_cut(size: int) -> None:
    stream = b": comment\n\ndata: one\n\nevent: x\ndata:two\r\n\r\ndata: a\ndata: b\n\n"
    splitter = EventSplitter()

    events = [e for i in range(0, len(stream), size) for e in splitter.feed(stream[i : i + size])]

    assert events == [b"one", b"two", b"a\nb"]
    assert splitter.is_between_events


def test_an_unfinished_event_is_held_back() -> None:
    splitter = EventSplitter()

    assert splitter.feed(b"data: half") == []
    assert not splitter.is_between_events


def test_stated_token_ids_give_the_tokens_of_an_event() -> None:
    answer = Answer()

    feed(
        answer,
        b'{"choices":[{"index":0,"text":"a","token_ids":[1,2]}]}',
        b'{"choices":[{"index":0,"text":"","token_ids":[3]}]}',
        b'{"choices":[{"index":0,"text":"","token_ids":[],"finish_reason":"stop"}]}',
        b"[DONE]",
    )

    assert answer.event_tokens == [2, 1]
    assert answer.tokens_stated
    answer.check_finished()


def test_a_chat_chunk_with_only_a_role_is_not_a_first_token() -> None:
    answer = Answer()

    feed(
        answer,
        b'{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}',
        b'{"choices":[{"index":0,"delta":{"content":"Arr"}}]}',
    )

    assert answer.event_tokens == [1]
    assert answer.text == "Arr"


def test_usage_is_the_token_count_when_it_comes() -> None:
    answer = Answer()

    feed(
        answer,
        b'{"choices":[{"index":0,"text":"abc"}]}',
        b'{"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":3,"total_tokens":7}}',
    )

    assert answer.num_tokens == 3


def test_timings_are_kept_as_they_came() -> None:
    answer = Answer()

    feed(answer, b'{"choices":[],"timings":{"predicted_ms":12}}')

    assert answer.timings == {"predicted_ms": 12}


def test_lorax_brings_one_token_per_event_and_ends_without_done() -> None:
    answer = Answer()

    feed(
        answer,
        b'{"index":0,"token":{"id":5,"text":"Arr","special":false}}',
        b'{"index":1,"token":{"id":2,"text":"</s>","special":true},"generated_text":"Arr",'
        b'"details":{"finish_reason":"eos_token","prompt_tokens":3,"generated_tokens":2},'
        b'"timings":{"queue_ms":1}}',
    )

    answer.check_finished()
    assert answer.event_tokens == [1, 1]
    assert (answer.text, answer.num_tokens, answer.timings) == ("Arr", 2, {"queue_ms": 1})


def test_an_error_event_fails_the_answer() -> None:
    with pytest.raises(AttemptFailed, match="engine died") as caught:
        feed(Answer(), b'{"error":{"message":"engine died","type":"internal"}}')

    assert caught.value.outcome == "sse_error_event"


def test_data_that_is_no_chunk_fails_the_answer() -> None:
    with pytest.raises(AttemptFailed) as caught:
        feed(Answer(), b'{"choices": 3}')

    assert caught.value.outcome == "sse_malformed"


@pytest.mark.parametrize(
    ("events", "outcome"),
    [
        ([b'{"choices":[{"index":0,"text":"a"}]}', b"[DONE]"], "truncated"),
        ([b'{"choices":[{"index":0,"text":"a","finish_reason":"stop"}]}'], "truncated"),
        (
            [b'{"choices":[{"index":0,"text":"","finish_reason":"error"}]}', b"[DONE]"],
            "sse_error_event",
        ),
    ],
)
def test_a_stream_must_say_why_and_that_it_ended(events: list[bytes], outcome: str) -> None:
    answer = Answer()
    feed(answer, *events)

    with pytest.raises(AttemptFailed) as caught:
        answer.check_finished()

    assert caught.value.outcome == outcome
