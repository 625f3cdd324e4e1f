"""Logprobs as OpenAI's two routes show them."""

from __future__ import annotations

from collections.abc import Sequence

from lorry.types.chat import ChatLogprobs, TokenLogprob, TopLogprob
from lorry.types.completions import CompletionLogprobs
from lorry_server.engine.outputs import TokenLogprobs
from lorry_server.text.tokenizer import Tokenizer

# JSON has no infinity. This is below any logprob that float32 arithmetic yields otherwise.
MIN_LOGPROB = -9999.0


def finite(logprob: float) -> float:
    return max(logprob, MIN_LOGPROB)


class CompletionLogprobsWriter:
    """Writes one choice's logprobs piece by piece; `text_offset` runs on through all of them.

    Offsets count the characters that earlier tokens have begun, so that they point into the text
    even where a character is made of several tokens. Special tokens have no text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._offset = 0

    def write(self, tokens: Sequence[TokenLogprobs]) -> CompletionLogprobs:
        return CompletionLogprobs(
            tokens=[self._tokenizer.token_text(token.token_id) for token in tokens],
            token_logprobs=[
                None if token.logprob is None else finite(token.logprob) for token in tokens
            ],
            top_logprobs=[self._top(token) for token in tokens],
            text_offset=[self._advance(token.token_id) for token in tokens],
        )

    def _top(self, token: TokenLogprobs) -> dict[str, float] | None:
        """The best tokens and the one that was taken, by text; of equal texts the better."""
        if token.logprob is None:
            return None
        top: dict[str, float] = {}
        for token_id, logprob in (*token.top, (token.token_id, token.logprob)):
            top.setdefault(self._tokenizer.token_text(token_id), finite(logprob))
        return top

    def _advance(self, token_id: int) -> int:
        offset = self._offset
        if token_id not in self._tokenizer.special_token_ids:
            # Continuation bytes of UTF-8 begin no character.
            self._offset += sum(
                byte & 0xC0 != 0x80 for byte in self._tokenizer.token_bytes(token_id)
            )
        return offset


def chat_logprobs(tokens: Sequence[TokenLogprobs], *, tokenizer: Tokenizer) -> ChatLogprobs:
    return ChatLogprobs(
        content=[
            TokenLogprob(
                token=tokenizer.token_text(token.token_id),
                logprob=finite(token.logprob or 0.0),
                bytes=list(tokenizer.token_bytes(token.token_id)),
                top_logprobs=[
                    TopLogprob(
                        token=tokenizer.token_text(token_id),
                        logprob=finite(logprob),
                        bytes=list(tokenizer.token_bytes(token_id)),
                    )
                    for token_id, logprob in token.top
                ],
            )
            for token in tokens
        ]
    )
