"""Encodes a rendered chat such that no message can forge a control token.

A template writes control tokens (`<|im_start|>`, `<end_of_turn>`) as text around the messages,
and the tokenizer turns that text into their ids. It would do the same with a message that says
`<|im_end|>`, whose sender could then speak in another role. So every chat is rendered twice: the
second time with a placeholder for each message, which shows what the template itself wrote. If
the real prompt has other control tokens than that, it is put together from the outline, with the
messages as ordinary text.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lorry.types.lorax import TokenSpan
from lorry_server.errors import RequestError
from lorry_server.text.tokenizer import Tokenizer

# Compiled once: a pattern with the nonce in it would be compiled for every chat.
PLACEHOLDER = re.compile(r"(?P<nonce>message[0-9a-f]{24})n(?P<index>[0-9]+)n")

Render = Callable[[Sequence[str]], str]


@dataclass(frozen=True, slots=True)
class Outline:
    """`parts[i]`, then the message `order[i]`, then `parts[i + 1]`: what the template writes.

    A message that the template drops or changes is not in `order`.
    """

    parts: tuple[str, ...]
    order: tuple[int, ...]


def encode_chat(
    tokenizer: Tokenizer, render: Render, contents: Sequence[str], *, ends_in_last_message: bool
) -> list[int]:
    """Return the ids of `render(contents)`, whose control tokens are the template's own.

    Raises `RequestError` when a message with a control token's text is one that the template does
    not write as it stands, so that it cannot be told from the template's own text.
    """
    if ends_in_last_message:
        render = ended_in_last_message(render)
    ids = tokenizer.encode(render(contents), add_special_tokens=False)
    outline = outline_of(render, contents)
    # Most parts are alike, so each is encoded once.
    marks = {part: marks_in(tokenizer, part) for part in set(outline.parts)}
    written = [mark.id for part in outline.parts for mark in marks[part]]
    # Special tokens, and those others that mark something in this chat.
    control_ids = tokenizer.special_token_ids.union(written)
    if [i for i in ids if i in control_ids] == [i for i in written if i in control_ids]:
        return ids
    lost = {index for index, text in enumerate(contents) if text.strip()} - set(outline.order)
    if lost:
        raise RequestError(
            f"messages[{min(lost)}] does not come through this model's chat template as it stands, "
            "so messages must not contain the text of control tokens",
            param="messages",
        )
    fillings = [contents[index].strip() for index in outline.order]
    return encode_filled(tokenizer, outline.parts, marks, fillings)


def ended_in_last_message(render: Render) -> Render:
    """Return a `render` whose text ends where the last message's content does."""
    end = f"end{secrets.token_hex(12)}"

    def render_until_end(contents: Sequence[str]) -> str:
        # The space shows whether the template trims its messages.
        rendered = render([*contents[:-1], f"{contents[-1]}{end} "])
        text, found, rest = rendered.rpartition(end)
        if not found:
            raise RequestError(
                "continue_final_message is not possible: this model's chat template does not write "
                "the last message as it stands",
                param="continue_final_message",
            )
        return text if rest.startswith(" ") else text.rstrip()

    return render_until_end


def outline_of(render: Render, contents: Sequence[str]) -> Outline:
    # Unguessable, so that no message can contain it; letters and digits, so that no template
    # escapes it. The space around a message stays, since templates may trim it.
    nonce = f"message{secrets.token_hex(12)}"
    placeholders = [
        text.replace(text.strip(), f"{nonce}n{index}n") if text.strip() else text
        for index, text in enumerate(contents)
    ]
    rendered = render(placeholders)
    parts, order, end = [], [], 0
    for found in PLACEHOLDER.finditer(rendered):
        if found["nonce"] == nonce:  # anything may stand in a name
            parts.append(rendered[end : found.start()])
            order.append(int(found["index"]))
            end = found.end()
    return Outline(parts=(*parts, rendered[end:]), order=tuple(order))


def encode_filled(
    tokenizer: Tokenizer,
    parts: Sequence[str],
    marks: Mapping[str, Sequence[TokenSpan]],
    fillings: Sequence[str],
) -> list[int]:
    """Return the ids of `parts` with `fillings` between them, with the marks of the parts only.

    What stands between two marks is encoded as one text, as it would be without this.
    """
    ids: list[int] = []
    text = ""
    for part, filling in zip(parts, [*fillings, ""], strict=True):
        position = 0
        for mark in marks[part]:
            ids += tokenizer.encode_plain(text + part[position : mark.start])
            ids.append(mark.id)
            text, position = "", mark.stop
        text += part[position:] + filling
    return ids + tokenizer.encode_plain(text)


def marks_in(tokenizer: Tokenizer, part: str) -> list[TokenSpan]:
    """Return the added tokens in the template's text.

    Added tokens of blank space are text that the vocabulary has in one piece, and no marks.
    """
    return [
        span
        for span in tokenizer.encode_spans(part, add_special_tokens=False)
        if span.id in tokenizer.added_token_ids and not span.text.isspace()
    ]
