"""What may be said about one generation: the keyword arguments of `generate`, `stream` and `chat`.

One definition serves every method that generates; `resolve` turns what a caller gave into a
`CallOptions` and names what it does not know.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypedDict

import msgspec

from lorry.request_id import new_request_id
from lorry.timeout import Timeout


class GenerateOptions(TypedDict, total=False):
    """All are optional; None is as good as absent, and the server's default then holds."""

    max_tokens: int | None
    max_new_tokens: int | None  # the same by its Hugging Face name; giving both is a TypeError
    adapter: str | None  # None and "" mean the base model
    adapter_id: str | None  # the same by its LoRAX name; giving both is a TypeError
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    seed: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    logit_bias: Mapping[int | str, float] | None
    logprobs: int | None  # how many alternatives per token; 0 for the chosen token alone
    min_tokens: int | None
    ignore_eos: bool | None
    echo: bool | None  # the prompt comes back in front of the text
    response_format: Mapping[str, Any] | None  # as OpenAI has it, {"type": "json_object"}
    priority: int | None  # smaller goes first, on servers that schedule by it
    deadline: float | None  # seconds for everything; the smaller of it and the timeout's total
    timeout: Timeout | float | None  # instead of the client's; a number is the total
    token_times: bool | None  # stream underneath and keep one stamp per token
    request_id: str | None  # made by the client when absent; sent to the server
    tag: Any  # comes back on the result, is never sent
    extra_body: Mapping[str, Any] | None  # put into the body last; a None removes the field


class ChatOptions(GenerateOptions, total=False):
    """What a conversation may be given beyond that; tools are dicts as OpenAI has them."""

    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None


_ALIASES = {"max_new_tokens": "max_tokens", "adapter_id": "adapter"}
_LOCAL = frozenset({"deadline", "timeout", "token_times", "request_id", "tag", "extra_body"})
_ONE_CHOICE = "a call has one choice; for several answers, call several times, each with a seed"


class CallOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one call, resolved. `sampling` holds the fields that go to the server."""

    sampling: dict[str, Any]
    extra_body: Mapping[str, Any]
    adapter: str | None
    timeout: Timeout
    token_times: bool
    request_id: str
    tag: Any


def resolve(
    options: Mapping[str, Any],
    *,
    timeout: Timeout,
    defaults: Mapping[str, Any] | None = None,
    known: type[GenerateOptions] = GenerateOptions,
) -> CallOptions:
    """Check the names, settle aliases and limits; `timeout` is the client's own.

    `defaults` are canonical options that hold where `options` says nothing.

    Raises TypeError for an unknown option or for both names of one, ValueError for a wrong limit
    or request id. What the values mean is the server's to judge.
    """
    given = canonical(options, known=known)
    if defaults:
        given = {**defaults, **given}
    adapter = given.pop("adapter", None)
    return CallOptions(
        sampling={name: value for name, value in given.items() if name not in _LOCAL},
        extra_body=_single_choice(given["extra_body"]) if "extra_body" in given else {},
        adapter=adapter or None,
        timeout=_limits(given.get("timeout"), given.get("deadline"), timeout),
        token_times=bool(given.get("token_times")),
        request_id=_checked_request_id(given.get("request_id")),
        tag=given.get("tag"),
    )


def default_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Check options that are to hold for many calls; raises TypeError as `resolve` does."""
    given = canonical(options)
    for name, owner in (("request_id", "one request"), ("timeout", "the client itself")):
        if name in given:
            raise TypeError(f"{name} belongs to {owner} and cannot be a default option")
    return given


def canonical(
    options: Mapping[str, Any], *, known: type[GenerateOptions] = GenerateOptions
) -> dict[str, Any]:
    """The options that are given, each under its first name; raises TypeError as `resolve` does."""
    given: dict[str, Any] = {}
    names = known.__annotations__
    for name, value in options.items():
        if name not in names:
            raise TypeError(_not_an_option(name, names))
        if value is None:
            continue
        canonical = _ALIASES.get(name, name)
        if canonical in given:
            other = next(alias for alias, target in _ALIASES.items() if target == canonical)
            raise TypeError(f"{canonical!r} and {other!r} are two names of one option; give one")
        given[canonical] = value
    return given


def _not_an_option(name: str, names: Collection[str]) -> str:
    if name in ChatOptions.__annotations__:
        return f"{name!r} is an option of conversations only: client.chat takes it"
    if name in ("n", "best_of"):
        return f"{name!r} is not an option: {_ONE_CHOICE}"
    import difflib  # a wrong name is worth the time

    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unexpected keyword argument {name!r}{hint}"


def _single_choice(extra_body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Refuse what would be answered with several texts, of which a `Generation` holds one."""
    if extra_body.get("n") not in (None, 1):
        raise TypeError(f"extra_body has n={extra_body['n']!r}: {_ONE_CHOICE}")
    return extra_body


def as_timeout(value: Timeout | float | None, *, default: Timeout) -> Timeout:
    """A number is the total, with the other limits of `default`; None is `default`."""
    if value is None:
        return default
    if isinstance(value, Timeout):
        return value
    return Timeout(
        total=float(value),
        connect=default.connect,
        first_token=default.first_token,
        idle=default.idle,
    )


def _limits(timeout: Timeout | float | None, deadline: float | None, default: Timeout) -> Timeout:
    limits = as_timeout(timeout, default=default)
    if deadline is None:
        return limits
    if not (math.isfinite(deadline) and deadline > 0):
        raise ValueError(f"deadline is {deadline}; it must be a positive number of seconds")
    total = deadline if limits.total is None else min(deadline, limits.total)
    return Timeout(
        total=total, connect=limits.connect, first_token=limits.first_token, idle=limits.idle
    )


def _checked_request_id(request_id: str | None) -> str:
    if request_id is None:
        return new_request_id()
    if not (0 < len(request_id) <= 128 and request_id.isascii() and request_id.isprintable()):
        raise ValueError(
            f"request_id is {request_id!r}; it must be 1 to 128 printable ASCII characters"
        )
    return request_id
