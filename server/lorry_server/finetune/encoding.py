"""Makes token ids of training data, as the server makes them of requests."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorry_server.errors import ModelError, RequestError
from lorry_server.finetune.data import (
    BadLine,
    Completion,
    Conversation,
    DataError,
    PlainText,
    Shape,
    describe_bad_lines,
    parse_lines,
)
from lorry_server.text.chat_template import ChatTemplate, checked_messages, render_chat
from lorry_server.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence. Its tokens from `learn_from` on are learned, the others only read."""

    token_ids: tuple[int, ...]
    learn_from: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """The examples of each line that can be learned from, in the file's order.

    A conversation is an example for each answer in it. `ignored_keys` stand in the file and mean
    nothing to training.
    """

    lines: tuple[tuple[Example, ...], ...]
    bad_lines: tuple[BadLine, ...]
    ignored_keys: tuple[str, ...]


class ExampleEncoder:
    """Encodes with the tokenizer and the chat template that the server uses for the same model.

    `max_length` is in tokens, the end token included. With `learn_prompt` what precedes a
    completion is learned as well.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        *,
        max_length: int,
        learn_prompt: bool,
    ) -> None:
        """Raises ModelError for a model whose end token is not known."""
        if not tokenizer.eos_token_ids:
            raise ModelError("the model names no end token, so no answer could be taught to end")
        self._tokenizer = tokenizer
        self._template = template
        self._max_length = max_length
        self._learn_prompt = learn_prompt
        self._end_of_text = tokenizer.eos_token_ids[0]
        self._end_of_answer = _end_of_answer(tokenizer, template)

    def encode(self, shape: Shape) -> list[Example]:
        """Raises ValueError that says why the line cannot be learned from."""
        match shape:
            case Conversation(messages):
                examples = self._conversation([dict(message) for message in messages])
            case Completion(prompt, completion):
                prompt_ids = self._tokenizer.encode(prompt)
                whole_ids = self._tokenizer.encode(prompt + completion)
                ids = self._after(prompt_ids, whole_ids, completion)
                examples = [Example((*ids, self._end_of_text), len(prompt_ids))]
            case PlainText(text):
                ids = self._tokenizer.encode(text)
                if ids[-1:] != [self._end_of_text]:
                    ids.append(self._end_of_text)
                examples = [Example(tuple(ids), 0)]
        longest = max(len(example.token_ids) for example in examples)
        if longest > self._max_length:
            raise ValueError(
                f"{longest} tokens, and at most {self._max_length} are taken (--max-length, and no "
                "more than the model's own limit)"
            )
        if self._learn_prompt:
            return [Example(example.token_ids, 0) for example in examples]
        return examples

    def _conversation(self, messages: list[dict[str, Any]]) -> list[Example]:
        chat = checked_messages(messages)
        if chat[-1]["role"] != "assistant":
            raise ValueError("the last message must be the assistant's")
        return [
            self._answer(chat, index)
            for index, message in enumerate(chat)
            if message["role"] == "assistant"
        ]

    def _answer(self, chat: list[dict[str, str]], index: int) -> Example:
        """The chat as far as its answer `index`, behind the prompt that a request would have."""
        answer = chat[index]["content"]
        if not answer.strip():
            raise ValueError(f"messages[{index}] of the assistant is empty")
        prompt_ids = render_chat(
            self._tokenizer,
            self._template,
            chat[:index],
            add_generation_prompt=True,
            continue_final_message=False,
        )
        whole_ids = render_chat(
            self._tokenizer,
            self._template,
            chat[: index + 1],
            add_generation_prompt=False,
            continue_final_message=True,
        )
        ids = self._after(prompt_ids, whole_ids, answer)
        return Example((*ids, self._end_of_answer), len(prompt_ids))

    def _after(self, prompt_ids: list[int], whole_ids: list[int], completion: str) -> list[int]:
        """`whole_ids` where they begin with the prompt's; else the completion encoded by itself.

        A template may write an earlier answer otherwise than it begins a new one, and a word may
        reach over the end of a prompt. A request ends with the prompt's own ids all the same.
        """
        if whole_ids[: len(prompt_ids)] == prompt_ids and len(whole_ids) > len(prompt_ids):
            return whole_ids
        return [*prompt_ids, *self._tokenizer.encode_plain(completion)]


def read_dataset(path: Path, encoder: ExampleEncoder, *, skip_bad_lines: bool) -> Dataset:
    """Read and encode a JSONL file.

    Raises DataError that names each bad line and its fault, unless they are to be skipped; and
    for a file that cannot be read or has nothing to learn from.
    """
    try:
        raw = path.read_bytes()
    except OSError as exc:
        raise DataError(f"cannot read {path}: {exc.strerror}") from exc
    lines, bad = parse_lines(raw)
    num_lines = len(lines) + len(bad)
    encoded: list[tuple[Example, ...]] = []
    ignored: dict[str, None] = {}
    for line in lines:
        try:
            encoded.append(tuple(encoder.encode(line.shape)))
        except (ValueError, RequestError) as exc:
            bad.append(BadLine(line.number, str(exc)))
        ignored |= dict.fromkeys(line.ignored)
    if bad and not skip_bad_lines:
        raise DataError(
            f"{describe_bad_lines(path, bad, num_lines=num_lines)}\n"
            "Mend them, or let --skip-bad-lines leave them out."
        )
    if not encoded:
        raise DataError(f"{path.name} has nothing to learn from ({num_lines} lines)")
    return Dataset(tuple(encoded), tuple(bad), tuple(ignored))


def _end_of_answer(tokenizer: Tokenizer, template: ChatTemplate | None) -> int:
    """The end token that the template writes behind an answer, else the model's first."""
    first = tokenizer.eos_token_ids[0]
    if template is None:
        return first
    probe = f"answer{secrets.token_hex(12)}"
    chat = [{"role": "user", "content": "question"}, {"role": "assistant", "content": probe}]
    try:
        rendered = template.render(chat, add_generation_prompt=False)
    except RequestError:
        return first
    _, found, rest = rendered.rpartition(probe)
    behind = tokenizer.encode(rest, add_special_tokens=False) if found else []
    return next((token_id for token_id in behind if token_id in tokenizer.eos_token_ids), first)
