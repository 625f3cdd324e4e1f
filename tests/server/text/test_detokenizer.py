"""`IncrementalDetokenizer`: nothing lost, nothing twice, and no part of a stop string shown."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorry_server.text.detokenizer import IncrementalDetokenizer
from lorry_server.text.tokenizer import Tokenizer
from tests.support.small_tokenizers import (
    byte_level_tokenizer,
    sentencepiece_tokenizer,
    word_piece_tokenizer,
)

BYTE_LEVEL = Tokenizer(byte_level_tokenizer(), eos_token_ids=(2,))
SENTENCEPIECE = Tokenizer(sentencepiece_tokenizer(), eos_token_ids=(2,))
WORD_PIECE = Tokenizer(word_piece_tokenizer(), eos_token_ids=())
BYTE_IDS = {BYTE_LEVEL.token_bytes(token_id)[0]: token_id for token_id in range(258, 2, -1)}


def ids_of(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, len(tokenizer) - 1), max_size=24)


def streamed(detokenizer: IncrementalDetokenizer, token_ids: list[int]) -> list[str]:
    """Return what each token showed, and at the end what finishing did."""
    return [*(detokenizer.push(token_id) for token_id in token_ids), detokenizer.finish()]


def spelt(text: str) -> list[int]:
    """Return ids that spell `text` one byte a token, so that everything is split."""
    return [BYTE_IDS[byte] for byte in text.encode()]


@settings(max_examples=200, deadline=None)
@given(token_ids=ids_of(BYTE_LEVEL), skip=st.booleans())
def test_pieces_of_random_bytes_make_the_decoded_whole(token_ids: list[int], skip: bool) -> None:
    detokenizer = IncrementalDetokenizer(BYTE_LEVEL, skip_special_tokens=skip)

    pieces = streamed(detokenizer, token_ids)

    assert "".join(pieces) == BYTE_LEVEL.decode(token_ids, skip_special_tokens=skip)


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, SENTENCEPIECE])
@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=30))
def test_pieces_of_any_text_make_the_text_without_half_characters(
    tokenizer: Tokenizer, text: str
) -> None:
    detokenizer = IncrementalDetokenizer(tokenizer)

    pieces = streamed(detokenizer, tokenizer.encode_plain(text))

    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


@settings(max_examples=60, deadline=None)
@given(token_ids=ids_of(WORD_PIECE))
def test_pieces_of_words_make_the_decoded_whole(token_ids: list[int]) -> None:
    pieces = streamed(IncrementalDetokenizer(WORD_PIECE), token_ids)

    assert "".join(pieces) == WORD_PIECE.decode(token_ids)


def test_sentencepiece_stream_survives_bytes_that_are_no_character() -> None:
    """The library's own stream raises here: a character changes once a later byte is wrong."""
    ids = [SENTENCEPIECE.encode("a")[0], *(3 + byte for byte in b"\xc3t\xa9\xc3\xa9"), 2]

    pieces = streamed(IncrementalDetokenizer(SENTENCEPIECE), ids)

    assert "".join(pieces) == "a\ufffdt\ufffdé"


def first_stop(text: str, stop: tuple[str, ...]) -> tuple[str, str | None]:
    """What the definition says, letter by letter: the text before the first complete stop."""
    for end in range(len(text) + 1):
        complete = [word for word in stop if text[:end].endswith(word)]
        if complete:
            found = max(complete, key=len)
            return text[: end - len(found)], found
    return text, None


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(alphabet="abé", max_size=20),
    stop=st.lists(st.text(alphabet="abé", min_size=1, max_size=4), min_size=1, max_size=3),
    is_spelt=st.booleans(),
)
def test_text_ends_before_the_first_stop_string_and_shows_no_part_of_it(
    text: str, stop: list[str], is_spelt: bool
) -> None:
    token_ids = spelt(text) if is_spelt else BYTE_LEVEL.encode_plain(text)
    detokenizer = IncrementalDetokenizer(BYTE_LEVEL, stop=tuple(stop))
    shown = ""
    expected, found = first_stop(text, tuple(stop))

    for piece in streamed(detokenizer, token_ids):
        shown += piece
        assert expected.startswith(shown)

    assert (shown, detokenizer.stopped) == (expected, found)


def test_stop_string_that_overlaps_itself_is_found() -> None:
    detokenizer = IncrementalDetokenizer(BYTE_LEVEL, stop=("aab",))

    assert streamed(detokenizer, spelt("aaab")) == ["", "", "a", "", ""]
    assert detokenizer.stopped == "aab"


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    detokenizer = IncrementalDetokenizer(BYTE_LEVEL, stop=("\n\n", "END"))

    pieces = streamed(detokenizer, spelt("xEN\nEND!"))

    assert pieces == ["x", "", "", "EN", "\n", "", "", "", ""]


def test_held_back_text_is_shown_at_the_end() -> None:
    detokenizer = IncrementalDetokenizer(BYTE_LEVEL, stop=("END",))

    assert streamed(detokenizer, spelt("xEN")) == ["x", "", "", "EN"]
    assert detokenizer.stopped is None


def test_stop_string_can_be_kept() -> None:
    detokenizer = IncrementalDetokenizer(BYTE_LEVEL, stop=("END",), include_stop=True)

    assert "".join(streamed(detokenizer, spelt("xEND!"))) == "xEND"
    assert detokenizer.stopped == "END"


def test_tokens_after_the_stop_are_ignored() -> None:
    detokenizer = IncrementalDetokenizer(BYTE_LEVEL, stop=("b",))

    assert streamed(detokenizer, spelt("abcd")) == ["a", "", "", "", ""]


def test_special_tokens_are_shown_when_asked_for() -> None:
    ids = [*spelt("a"), 2]

    assert "".join(streamed(IncrementalDetokenizer(BYTE_LEVEL), ids)) == "a"
    shown = streamed(IncrementalDetokenizer(BYTE_LEVEL, skip_special_tokens=False), ids)
    assert "".join(shown) == "a<|im_end|>"
