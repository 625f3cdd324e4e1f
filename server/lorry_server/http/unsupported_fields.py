"""Fields that OpenAI's and vLLM's clients may send and this server does not act on.

A client that fills in every field with its default must not be refused, so each has a test for
the values that ask for nothing. Any other value is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lorry_server.errors import RequestError

IsNeutral = Callable[[Any], bool]


def one_of(*values: Any) -> IsNeutral:
    """Accept null and these values; true and 1 are different values here."""

    def is_neutral(value: Any) -> bool:
        return value is None or any(
            type(value) is type(neutral) and value == neutral for neutral in values
        )

    return is_neutral


only_null = one_of()

_EVERYWHERE: dict[str, IsNeutral] = {
    "adapter_source": one_of("local"),
    "allowed_token_ids": only_null,
    "bad_words": one_of([]),
    "cache_salt": only_null,
    "guided_choice": only_null,
    "guided_grammar": only_null,
    "guided_json": only_null,
    "guided_regex": only_null,
    "length_penalty": one_of(1, 1.0),
    "metadata": one_of({}),
    "priority": one_of(0),
    "prompt_logprobs": only_null,
    "return_tokens_as_token_ids": one_of(False),
    "service_tier": one_of("auto", "default"),
    "skip_special_tokens": one_of(True),
    "spaces_between_special_tokens": one_of(True),
    "store": one_of(False),
    "structured_outputs": only_null,
    "truncate_prompt_tokens": only_null,
    "use_beam_search": one_of(False),
}

COMPLETION_FIELDS: dict[str, IsNeutral] = _EVERYWHERE | {
    "add_special_tokens": one_of(True),
    "response_format": one_of({"type": "text"}),
    "suffix": one_of(""),
}

CHAT_FIELDS: dict[str, IsNeutral] = _EVERYWHERE | {
    "add_special_tokens": one_of(False),
    "audio": only_null,
    "chat_template": only_null,
    "chat_template_kwargs": one_of({}),
    "documents": one_of([]),
    "function_call": one_of("none", "auto"),
    "functions": one_of([]),
    "guideline": only_null,
    "modalities": one_of(["text"]),
    "parallel_tool_calls": one_of(True, False),  # says nothing without tools
    "prediction": only_null,
    "reasoning_effort": one_of("none"),
    "response_format": one_of({"type": "text"}),
    "tool_choice": one_of("none", "auto"),
    "tool_prompt": only_null,
    "tools": one_of([]),
    "verbosity": one_of("medium"),
    "web_search_options": only_null,
}

MESSAGE_FIELDS: dict[str, IsNeutral] = {
    "annotations": one_of([]),
    "audio": only_null,
    "function_call": only_null,
    "reasoning": only_null,
    "reasoning_content": only_null,
    "refusal": only_null,
    "tool_call_id": only_null,
    "tool_calls": one_of([]),
}


def take_completion_fields(body: dict[str, Any]) -> None:
    """Remove neutral values of unsupported fields from `body`, or raise `RequestError`."""
    take_fields(body, COMPLETION_FIELDS)


def take_chat_fields(body: dict[str, Any]) -> None:
    """The same for a chat and each of its messages."""
    take_fields(body, CHAT_FIELDS)
    messages = body.get("messages")
    if isinstance(messages, list):
        for index, message in enumerate(messages):
            if isinstance(message, dict):
                take_fields(message, MESSAGE_FIELDS, path=f"messages[{index}].")


def take_fields(body: dict[str, Any], fields: dict[str, IsNeutral], *, path: str = "") -> None:
    for name in sorted(fields.keys() & body.keys()):
        if not fields[name](body.pop(name)):
            raise RequestError(
                f"`{path}{name}` is not supported by this server",
                param=path + name,
                code="unsupported_parameter",
            )
