"""`ChatTemplate`, the model's own template, and `render_chat`, from messages to prompt ids."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import jinja2

from lorry_server.errors import ModelError, RequestError
from lorry_server.text.chat_outline import encode_chat
from lorry_server.text.model_json import read_model_json, token_text_in
from lorry_server.text.template_sandbox import (
    TEMPLATE_FAULTS,
    TemplateRefusalError,
    build_environment,
)
from lorry_server.text.time_limit import time_limit
from lorry_server.text.tokenizer import Tokenizer

TOKEN_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
# Far above any context length, far below what would hurt the process.
MAX_RENDERED_CHARS = 16 * 2**20
# A role is written between control tokens, so only known ones are let through.
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


class ChatTemplate:
    """A compiled template and the special tokens that it may write. Rendering is thread-safe.

    The template belongs to the folder of the model or of an adapter: requests never bring one. The
    sandbox keeps it from Python's internals all the same, since folders come from the internet.
    """

    def __init__(
        self,
        source: str,
        *,
        tokens: Mapping[str, str] | None = None,
        max_chars: int = MAX_RENDERED_CHARS,
        owner: str = "the model",
        max_render_s: float | None = None,
    ) -> None:
        """Compile `source`, the template of `owner`; raise `ModelError` if it is not a template.

        A rendering that takes longer than `max_render_s` is given up.
        """
        self._tokens = dict(tokens or {})
        self._max_chars = max_chars
        self._name = f"{owner}'s chat template"
        self._max_render_s = max_render_s
        try:
            self._template = build_environment().from_string(source)
        except jinja2.TemplateSyntaxError as exc:
            raise ModelError(
                f"{self._name} has an error in line {exc.lineno}: {exc.message}"
            ) from exc
        # What is constant is computed now, and Python has limits of its own for what is nested.
        except (*TEMPLATE_FAULTS, SyntaxError, MemoryError) as exc:
            raise ModelError(f"{self._name} has an error: {exc}") from exc

    @classmethod
    def from_folder(cls, path: str | Path) -> ChatTemplate | None:
        """Return the template of the model in `path`, or None if it has none."""
        folder = Path(path)
        config = read_model_json(folder / "tokenizer_config.json")
        source = read_template_file(folder / "chat_template.jinja")
        if source is None:
            source = template_in(config, path=folder / "tokenizer_config.json")
        if source is None:
            return None
        return cls(source, tokens=read_tokens(folder, config=config))

    @property
    def is_bounded_in_time(self) -> bool:
        """Whether rendering may be given up, as that of a template that nobody here vouches for."""
        return self._max_render_s is not None

    def render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool) -> str:
        """Return the prompt's text.

        Raises `RequestError` with `error_type` "template_error" when the template refuses the
        messages or cannot be applied to them.
        """
        rendered: list[str] = []
        num_chars = 0
        limit: AbstractContextManager[None] = nullcontext()
        if self._max_render_s is not None:
            limit = time_limit(self._max_render_s)
        try:
            with limit:
                for text in self._template.generate(
                    messages=messages,
                    add_generation_prompt=add_generation_prompt,
                    tools=None,
                    documents=None,
                    **self._tokens,
                ):
                    rendered.append(text)
                    num_chars += len(text)
                    if num_chars > self._max_chars:
                        raise template_error(
                            f"the rendered chat is longer than {self._max_chars} characters"
                        )
        except TemplateRefusalError as exc:
            raise template_error(f"{self._name} refuses the messages: {exc}") from exc
        except TEMPLATE_FAULTS as exc:
            raise template_error(f"{self._name} does not work with these messages: {exc}") from exc
        return "".join(rendered)


def render_chat(
    tokenizer: Tokenizer,
    template: ChatTemplate | None,
    messages: Sequence[dict[str, Any]],
    *,
    add_generation_prompt: bool,
    continue_final_message: bool,
) -> list[int]:
    """Return the ids of the prompt that `template` makes of `messages`.

    They are the ids that transformers' `apply_chat_template` gives, unless a message contains
    the text of a control token: that is encoded as ordinary text. With `continue_final_message`
    the prompt ends inside the last message. Raises `RequestError` for messages that are not a
    chat, that the template refuses, or that the model has no template for.
    """
    if template is None:
        raise template_error("this model has no chat template; use /v1/completions instead")
    if continue_final_message and add_generation_prompt:
        raise RequestError(
            "continue_final_message needs add_generation_prompt to be false: an answer either "
            "continues the last message or begins a new one",
            param="continue_final_message",
        )
    chat = checked_messages(messages)

    def render(contents: Sequence[str]) -> str:
        return template.render(
            [{**message, "content": text} for message, text in zip(chat, contents, strict=True)],
            add_generation_prompt=add_generation_prompt,
        )

    return encode_chat(
        tokenizer,
        render,
        [message["content"] for message in chat],
        ends_in_last_message=continue_final_message,
    )


def checked_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Check what a template may be shown: `role`, `content` as one text, and perhaps `name`.

    What stands beside the content is written between control tokens and is not encoded as plain
    text, so it must be of a kind that cannot forge one.
    """
    if not messages:
        raise RequestError("messages must have at least one message", param="messages")
    checked: list[dict[str, str]] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        unknown = sorted(set(message) - {"role", "content", "name"})
        if unknown:
            raise RequestError(f"{where}.{unknown[0]} is not supported", param="messages")
        role, name = message.get("role"), message.get("name")
        if role not in ROLES:
            raise RequestError(
                f"{where}.role must be one of {', '.join(ROLES)}, not {role!r:.60}",
                param="messages",
            )
        content = message.get("content")
        if not isinstance(content, str):
            raise RequestError(f"{where}.content must be text", param="messages")
        checked.append({"role": role, "content": content})
        if name is None:
            continue
        if not isinstance(name, str) or NAME.fullmatch(name) is None:
            raise RequestError(
                f"{where}.name must be up to 64 letters, digits, '_' and '-'", param="messages"
            )
        checked[-1]["name"] = name
    return checked


def template_error(message: str) -> RequestError:
    return RequestError(message, param="messages", error_type="template_error")


def read_template_file(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as exc:
        raise ModelError(f"{path} cannot be read: {exc}") from exc


def template_in(config: Mapping[str, Any], *, path: Path) -> str | None:
    """Return `chat_template` of a tokenizer_config: text, or a list of named ones."""
    entry = config.get("chat_template")
    if isinstance(entry, list):
        named = {item.get("name"): item.get("template") for item in entry if isinstance(item, dict)}
        entry = named.get("default")
        if entry is None:
            raise ModelError(f"{path}: none of the chat templates {list(named)} is 'default'")
    if entry is not None and not isinstance(entry, str):
        raise ModelError(f"{path}: chat_template must be text, not {type(entry).__name__}")
    return entry


def special_tokens_in(folder: Path) -> dict[str, str]:
    """Return the text of a model's special tokens, by the names that templates know them under."""
    return read_tokens(folder, config=read_model_json(folder / "tokenizer_config.json"))


def read_tokens(folder: Path, *, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the text of the tokens that templates name, such as `bos_token`."""
    older = read_model_json(folder / "special_tokens_map.json")
    found = {name: token_text_in(config.get(name, older.get(name))) for name in TOKEN_NAMES}
    return {name: text for name, text in found.items() if text is not None}
