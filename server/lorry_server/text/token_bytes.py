"""The exact bytes that each vocabulary entry stands for, read from the tokenizer's own pipeline."""

from __future__ import annotations

import json
import re
from typing import Any

import tokenizers

METASPACE = "▁"  # how sentencepiece vocabularies write a space
BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
SENTENCEPIECE_DECODERS = {"Metaspace", "Replace", "ByteFallback", "Fuse", "Strip"}


class TokenBytes:
    """Maps a token id to bytes, for logprobs and for texts that break inside a character.

    Three ways of writing bytes in a vocabulary are known: GPT-2's printable alphabet (a
    `ByteLevel` decoder), sentencepiece's `▁` and `<0x0A>`, and plain text. Added tokens stand for
    their own text. An id without an entry stands for nothing.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        self._backend = backend
        self._added = {
            token_id: token.content.encode()
            for token_id, token in backend.get_added_tokens_decoder().items()
        }
        decoders = decoder_steps(backend)
        types = {decoder["type"] for decoder in decoders}
        self._alphabet = byte_alphabet() if "ByteLevel" in types else None
        self._has_metaspace = bool(types & SENTENCEPIECE_DECODERS)
        self._is_whole_text = types == {"ByteLevel"} or is_sentencepiece(decoders)
        self._drops_first_space = any(map(drops_first_space, decoders))

    @property
    def is_whole_text(self) -> bool:
        """Whether a text is nothing but the bytes of its tokens, one after another, as UTF-8."""
        return self._is_whole_text

    @property
    def drops_first_space(self) -> bool:
        """Whether the space that begins a whole text is the tokenizer's own and not shown."""
        return self._drops_first_space

    def __getitem__(self, token_id: int) -> bytes:
        added = self._added.get(token_id)
        if added is not None:
            return added
        written = self._backend.id_to_token(token_id)
        if written is None:
            return b""
        if self._alphabet is not None:
            return bytes_of(written, alphabet=self._alphabet)
        if self._has_metaspace:
            byte = BYTE_TOKEN.fullmatch(written)
            if byte is not None:
                return bytes.fromhex(byte[1])
            return written.replace(METASPACE, " ").encode()
        return written.encode()


def bytes_of(written: str, *, alphabet: dict[str, int]) -> bytes:
    try:
        return bytes([alphabet[character] for character in written])
    except KeyError:  # an entry that is not in the alphabet is decoded as it is written
        return written.encode()


def byte_alphabet() -> dict[str, int]:
    """Return GPT-2's alphabet, from its printable characters to the bytes they stand for.

    A byte that is a printable Latin-1 character stands for itself; the others are numbered, in
    order, from U+0100 (Radford et al. 2019, byte-level BPE).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return alphabet


def decoder_steps(backend: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    """Return the decoder's JSON, a sequence of decoders as its members."""
    if backend.decoder is None:
        return []
    # Its pickled state is its JSON; the whole backend's would take a second for a big vocabulary.
    decoder = json.loads(backend.decoder.__getstate__())
    return decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]


def is_sentencepiece(decoders: list[dict[str, Any]]) -> bool:
    replacements = [
        (decoder["pattern"], decoder["content"])
        for decoder in decoders
        if decoder["type"] == "Replace"
    ]
    has_metaspace = bool(replacements) or any(d["type"] == "Metaspace" for d in decoders)
    return (
        has_metaspace
        and all(decoder["type"] in SENTENCEPIECE_DECODERS for decoder in decoders)
        and all(replacement == ({"String": METASPACE}, " ") for replacement in replacements)
    )


def drops_first_space(decoder: dict[str, Any]) -> bool:
    match decoder:
        case {"type": "Strip", "content": " ", "start": 1}:
            return True
        case {"type": "Metaspace", "prepend_scheme": scheme}:
            return bool(scheme != "never")
        case _:
            return False
