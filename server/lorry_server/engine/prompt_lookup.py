"""`PromptLookup`: guesses a sequence's next tokens from its own past.

Text repeats itself: an answer quotes its prompt, code repeats names, lists repeat their form. Where
the last tokens have stood before, what followed them then is a good guess of what follows now
(prompt lookup decoding, the n-gram case of speculative decoding, arXiv 2211.17192).
"""

from __future__ import annotations

from collections.abc import Sequence

# Three tokens agree by chance less often than two; one token alone says next to nothing.
NGRAM_SIZES = (3, 2)


class PromptLookup:
    """Where each n-gram of one growing sequence stood last.

    A token is indexed once, when the one after it is known, so a lookup takes constant time
    however long the sequence is. The index takes about 500 bytes a token.
    """

    def __init__(self) -> None:
        # From an n-gram to the place after its latest occurrence that has a token after it.
        self._next_of: dict[int, dict[tuple[int, ...], int]] = {size: {} for size in NGRAM_SIZES}
        self._num_indexed = 0  # n-grams that end up to here are in

    def propose(self, token_ids: Sequence[int], *, max_tokens: int) -> list[int]:
        """Guess up to `max_tokens` tokens that follow `token_ids`; none when nothing repeats.

        `token_ids` is the whole sequence, and begins with what was given in earlier calls. The
        longest n-gram decides, then its latest occurrence. A guess that reaches the sequence's
        end goes on in itself, so a sequence that has begun to repeat is continued at any length.
        """
        self._extend(token_ids)
        for size in NGRAM_SIZES:
            start = self._next_of[size].get(tuple(token_ids[-size:]))
            if start is not None:
                guess = list(token_ids[start : start + max_tokens])
                period = len(token_ids) - start
                while len(guess) < max_tokens:
                    guess.append(guess[-period])
                return guess
        return []

    def _extend(self, token_ids: Sequence[int]) -> None:
        last = len(token_ids) - 1  # the n-gram that ends with the last token has no successor yet
        for size in NGRAM_SIZES:
            first = max(self._num_indexed + 1, size)
            if first > last:
                continue
            columns = [
                token_ids[first - size + offset : last - size + offset + 1]
                for offset in range(size)
            ]
            ends = range(first, last + 1)
            # Of equal n-grams the last one given to `update` stays, which is the latest.
            self._next_of[size].update(zip(zip(*columns, strict=True), ends, strict=True))
        self._num_indexed = max(self._num_indexed, last)
