"""`IncrementalDetokenizer`: the text of a growing answer, and where a stop string ends it."""

from __future__ import annotations

from collections.abc import Sequence

from lorry_server.text.text_stream import open_text_stream
from lorry_server.text.tokenizer import Tokenizer


class IncrementalDetokenizer:
    """Turns one sequence's tokens into text as they come.

    What `push` and `finish` return, put together, is the decoded whole up to the first stop
    string, if one is in it. A character whose last byte has not come, and an end of text
    that may be the beginning of a stop string, are held back until that is settled.

    Tokens after the stop are ignored. Of several stop strings the one that is complete first
    wins, however the text is cut into tokens, and of those the longest.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        include_stop: bool = False,
        skip_special_tokens: bool = True,
    ) -> None:
        assert all(stop), "an empty stop string would stop everything"
        self._stream = open_text_stream(tokenizer, skip_special_tokens=skip_special_tokens)
        self._stop = StopFinder(stop, include_stop=include_stop) if stop else None
        self._is_finished = False

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the text."""
        return None if self._stop is None else self._stop.found

    def push(self, token_id: int) -> str:
        """Take the next token; return the text that is certain now."""
        assert not self._is_finished
        if self._stop is None:
            return self._stream.push(token_id)
        if self._stop.found is not None:
            return ""
        return self._stop.push(self._stream.push(token_id))

    def finish(self) -> str:
        """Return what was held back; there are no more tokens."""
        assert not self._is_finished
        self._is_finished = True
        if self._stop is None:
            return self._stream.finish()
        if self._stop.found is not None:
            return ""
        return self._stop.push(self._stream.finish()) + self._stop.finish()


class StopFinder:
    """Lets text through up to the first of the stop strings."""

    def __init__(self, stop: Sequence[str], *, include_stop: bool) -> None:
        self._stop = tuple(sorted(stop, key=len, reverse=True))
        self._include_stop = include_stop
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """Take the next text; return what can no longer become part of a stop string."""
        if self.found is not None:
            return ""
        self._held += text
        begin, self.found = self._first_stop()
        if self.found is not None:
            end = begin + (len(self.found) if self._include_stop else 0)
            shown, self._held = self._held[:end], ""
            return shown
        num_open = self._num_open_chars()
        split = len(self._held) - num_open
        shown, self._held = self._held[:split], self._held[split:]
        return shown

    def finish(self) -> str:
        """Return the held text, which did not become a stop string."""
        shown, self._held = self._held, ""
        return shown

    def _first_stop(self) -> tuple[int, str | None]:
        """Return where the stop string that ends first begins, and which it is."""
        hits = [(begin, stop) for stop in self._stop if (begin := self._held.find(stop)) >= 0]
        # min keeps the first of equals, and the longest stop string stands first
        return min(hits, key=lambda hit: hit[0] + len(hit[1]), default=(0, None))

    def _num_open_chars(self) -> int:
        """Return the length of the longest end of the held text that begins a stop string."""
        longest = min(len(self._held), max(map(len, self._stop), default=0))
        for length in range(longest, 0, -1):
            end = self._held[-length:]
            if any(stop.startswith(end) for stop in self._stop):
                return length
        return 0
