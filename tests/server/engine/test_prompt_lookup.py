"""The index against a rescan, and what it proposes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from lorry_server.engine.prompt_lookup import NGRAM_SIZES, PromptLookup


def rescan(token_ids: list[int], *, max_tokens: int) -> list[int]:
    """The same by looking at every place: longest n-gram first, then the latest place."""
    for size in NGRAM_SIZES:
        if len(token_ids) < size:
            continue
        for start in range(len(token_ids) - size - 1, -1, -1):
            if token_ids[start : start + size] == token_ids[-size:]:
                continued = list(token_ids)
                for offset in range(max_tokens):
                    continued.append(continued[start + size + offset])
                return continued[len(token_ids) :]
    return []


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    token_ids=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    chunks=st.lists(st.integers(1, 7), max_size=40),
    max_tokens=st.integers(1, 9),
)
def test_however_a_sequence_grows_the_index_finds_what_a_rescan_finds(
    token_ids: list[int], chunks: list[int], max_tokens: int
) -> None:
    lookup = PromptLookup()
    length = 0
    for chunk in [*chunks, len(token_ids)]:
        length = min(length + chunk, len(token_ids))

        proposed = lookup.propose(token_ids[:length], max_tokens=max_tokens)

        assert proposed == rescan(token_ids[:length], max_tokens=max_tokens)


def test_what_followed_the_last_occurrence_is_proposed() -> None:
    token_ids = [1, 2, 3, 50, 51, 9, 1, 2, 3, 60, 61, 62, 8, 1, 2, 3]

    assert PromptLookup().propose(token_ids, max_tokens=3) == [60, 61, 62]


def test_three_tokens_decide_before_two() -> None:
    token_ids = [1, 2, 3, 50, 7, 2, 3, 60, 1, 2, 3]

    assert PromptLookup().propose(token_ids, max_tokens=1) == [50]


def test_a_sequence_that_repeats_itself_is_continued_past_its_end() -> None:
    assert PromptLookup().propose([9, 4, 5, 4, 5], max_tokens=5) == [4, 5, 4, 5, 4]


def test_nothing_is_proposed_where_nothing_repeats() -> None:
    lookup = PromptLookup()

    assert lookup.propose([5], max_tokens=4) == []
    assert lookup.propose([5, 6, 7, 8, 9], max_tokens=4) == []


def test_each_token_is_indexed_once() -> None:
    class Counted(list[int]):
        num_read = 0

        def __getitem__(self, key):  # type: ignore[no-untyped-def] # both overloads of list's
            read = super().__getitem__(key)
            self.num_read += len(read) if isinstance(key, slice) else 1
            return read

    token_ids = Counted(range(1000, 3000))
    lookup = PromptLookup()
    lookup.propose(token_ids, max_tokens=4)
    before = token_ids.num_read

    for token_id in range(100):
        token_ids.append(token_id)
        lookup.propose(token_ids, max_tokens=4)

    assert token_ids.num_read - before <= 100 * 2 * sum(NGRAM_SIZES)
