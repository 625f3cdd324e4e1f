"""Token ids to text as they come, without stop strings: what `IncrementalDetokenizer` builds on."""

from __future__ import annotations

import codecs
from typing import Protocol

from tokenizers.decoders import DecodeStream

from lorry_server.text.tokenizer import Tokenizer


class TextStream(Protocol):
    """The text of one growing sequence; an incomplete character is held back."""

    def push(self, token_id: int) -> str:
        """Return the text that this token completes."""
        ...

    def finish(self) -> str:
        """Return what was held back, with U+FFFD for bytes that never became a character."""
        ...


def open_text_stream(tokenizer: Tokenizer, *, skip_special_tokens: bool) -> TextStream:
    if tokenizer.bytes_are_text:
        return Utf8Stream(tokenizer, skip_special_tokens=skip_special_tokens)
    return LibraryStream(tokenizer, skip_special_tokens=skip_special_tokens)


class Utf8Stream:
    """For vocabularies that write bytes, which is nearly all: one UTF-8 decoder, linear time.

    It equals the decoding of the whole, with one exception: the library replaces a whole run of
    `<0x..>` tokens if one byte in it is wrong, and this only the wrong bytes.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.added_special_token_ids if skip_special_tokens else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._is_inside_character = False
        self._drops_space = tokenizer.drops_first_space

    def push(self, token_id: int) -> str:
        if token_id in self._skipped:
            return ""
        text = self._tokenizer.whole_text(token_id)
        if text is None or self._is_inside_character:
            text = self._utf8.decode(self._tokenizer.token_bytes(token_id))
            self._is_inside_character = self._utf8.getstate()[0] != b""
        return self._begin(text) if self._drops_space else text

    def finish(self) -> str:
        return self._begin(self._utf8.decode(b"", final=True))

    def _begin(self, text: str) -> str:
        if self._drops_space and text:
            self._drops_space = False
            return text.removeprefix(" ")
        return text


class LibraryStream:
    """For other vocabularies (word pieces, end-of-word marks), over the library's own stream."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._skip_special_tokens = skip_special_tokens
        self._stream = DecodeStream(skip_special_tokens=skip_special_tokens)
        self._token_ids: list[int] = []
        self._num_chars = 0

    def push(self, token_id: int) -> str:
        self._token_ids.append(token_id)
        text = self._stream.step(self._tokenizer.backend, token_id) or ""
        self._num_chars += len(text)
        return text

    def finish(self) -> str:
        whole = self._tokenizer.decode(
            self._token_ids, skip_special_tokens=self._skip_special_tokens
        )
        return whole[self._num_chars :]
