"""Many generations at a bounded concurrency, from an input that is read as it is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Unpack

from lorry.errors import ClientError
from lorry.generation import Generation
from lorry.options import GenerateOptions, canonical

DEFAULT_CONCURRENCY = 64


class Request:
    """A prompt with options of its own; they win over those that `generate_many` shares."""

    __slots__ = ("options", "prompt")

    def __init__(self, prompt: str | Sequence[int], **options: Unpack[GenerateOptions]) -> None:
        self.prompt = prompt
        self.options: Mapping[str, Any] = canonical(options)

    def __repr__(self) -> str:
        length = "characters" if isinstance(self.prompt, str) else "token ids"
        return f"Request({len(self.prompt)} {length}, {', '.join(self.options) or 'no options'})"


async def run_many(
    generate: Callable[[str | Sequence[int], Mapping[str, Any]], Awaitable[Generation]],
    prompts: Iterable[str | Sequence[int] | Request],
    *,
    concurrency: int | None,
    order: Literal["input", "completion"],
    on_error: Literal["raise", "return"],
    shared: Mapping[str, Any],
) -> list[Generation | ClientError]:
    """`concurrency` workers take from `prompts` in turn; see `AsyncClient.generate_many`."""
    num_workers = _checked(concurrency, order, on_error, prompts)
    common = canonical(shared)
    if "request_id" in common:
        raise TypeError("request_id belongs to one request; give it in Request(...)")
    source = enumerate(prompts)
    results: dict[int, Generation | ClientError] = {}  # in the order of completion

    async def work() -> None:
        for index, item in source:
            request = item if isinstance(item, Request) else Request(item)
            try:
                results[index] = await generate(request.prompt, {**common, **request.options})
            except ClientError as error:
                if on_error == "raise":
                    raise
                results[index] = error

    try:
        async with asyncio.TaskGroup() as workers:
            for _ in range(num_workers):
                workers.create_task(work())
    except BaseExceptionGroup as failures:
        # the first failure cancelled the others; a group of one would only be in the way
        raise failures.exceptions[0] from None
    if order == "completion":
        return list(results.values())
    return [results[index] for index in sorted(results)]


def _checked(concurrency: int | None, order: str, on_error: str, prompts: object) -> int:
    if isinstance(prompts, str):
        raise TypeError("prompts is one string; give a list of prompts, or use generate")
    if order not in ("input", "completion"):
        raise ValueError(f"order is {order!r}; it must be 'input' or 'completion'")
    if on_error not in ("raise", "return"):
        raise ValueError(f"on_error is {on_error!r}; it must be 'raise' or 'return'")
    if concurrency is None:
        return DEFAULT_CONCURRENCY
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}; it must be at least 1")
    return concurrency
