"""`lorry generate`: one prompt, answered token by token, by one adapter or several side by side."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from lorry.answer_json import answer_fields, failure_fields
from lorry.client import AsyncClient
from lorry.command_line import (
    DONE,
    FAILED,
    USAGE_ERROR,
    add_sampling_options,
    add_server_options,
    complain,
    explained,
    finish,
    for_terminal,
    sampling_options,
    text_or_file,
)
from lorry.config import terminal_is_plain
from lorry.errors import ClientError
from lorry.generation import Generation
from lorry.options import GenerateOptions
from lorry.side_by_side import LiveColumns, fits
from lorry.stream import TokenStream

REDRAW_S = 0.05

Open = Callable[[str], TokenStream]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the answer of one adapter."""

    adapter: str
    result: Generation | ClientError


def main(argv: Sequence[str] | None = None) -> int:
    """0 when all was answered, 1 when something was not, 2 for wrong usage, 130 after ctrl-C."""
    namespace = make_parser().parse_args(argv)
    prompt: str | None = namespace.prompt
    if prompt is None and sys.stdin.isatty():
        complain("generate", "give a prompt, or @FILE, or - to read it from stdin")
        return USAGE_ERROR
    if prompt is None or prompt == "-":
        prompt = sys.stdin.read()
    return finish("generate", partial(_run, namespace, prompt))


async def _run(namespace: argparse.Namespace, prompt: str) -> int:
    adapters: list[str] = namespace.adapter or [""]
    sampling = sampling_options(namespace)
    async with AsyncClient(
        namespace.url, api_key=namespace.api_key, timeout=namespace.timeout
    ) as client:

        def open_stream(adapter: str) -> TokenStream:
            options: GenerateOptions = {**sampling, "adapter": adapter}
            if namespace.chat or namespace.system is not None:
                system = [{"role": "system", "content": namespace.system}]
                messages = system if namespace.system is not None else []
                return client.chat.stream(
                    [*messages, {"role": "user", "content": prompt}], **options
                )
            return client.stream(prompt, **options)

        if namespace.json:
            outcomes = await _as_json(open_stream, adapters)
        else:
            outcomes = await compare(open_stream, adapters)
    return report("generate", outcomes, timings=namespace.timings)


async def compare(open_stream: Open, adapters: Sequence[str]) -> list[Outcome]:
    """Print the answers as they come: several side by side where that can be shown, else in turn."""
    width, height = shutil.get_terminal_size()
    is_live = sys.stdout.isatty() and not terminal_is_plain()
    if len(adapters) > 1 and is_live and fits(len(adapters), width):
        live = LiveColumns(
            [title(adapter) for adapter in adapters], write=_write, width=width, height=height
        )
        return await _beside_each_other(open_stream, adapters, live)
    return [
        await _alone(open_stream, adapter, with_title=len(adapters) > 1) for adapter in adapters
    ]


def report(command: str, outcomes: Sequence[Outcome], *, timings: bool) -> int:
    """Say on stderr what failed and, if wanted, where the time went; return the exit code."""
    status = DONE
    for outcome in outcomes:
        name = f"{title(outcome.adapter)}: " if len(outcomes) > 1 else ""
        if isinstance(outcome.result, ClientError):
            complain(command, f"{name}{explained(outcome.result)}")
            status = FAILED
        if timings and outcome.result.timing is not None:
            print(f"\n{name}{outcome.result.timing}", file=sys.stderr)
    return status


def title(adapter: str) -> str:
    """How an adapter, or none, is called in what is shown."""
    return for_terminal(adapter) or "base model"


async def _alone(open_stream: Open, adapter: str, *, with_title: bool) -> Outcome:
    """Print one answer as it comes. What is piped stays as it is, what is shown obeys nobody."""
    shown = for_terminal if sys.stdout.isatty() else str
    if with_title:
        _write(f"== {title(adapter)} ==\n")
    last = "\n"
    try:
        async with open_stream(adapter) as stream:
            async for piece in stream.text_stream():
                last = shown(piece)
                _write(last)
            return Outcome(adapter, stream.partial)
    except ClientError as error:
        return Outcome(adapter, error)
    finally:
        if not last.endswith("\n"):
            _write("\n")


async def _beside_each_other(
    open_stream: Open, adapters: Sequence[str], live: LiveColumns
) -> list[Outcome]:
    texts = [""] * len(adapters)

    async def follow(index: int, adapter: str) -> Outcome:
        try:
            async with open_stream(adapter) as stream:
                async for piece in stream.text_stream():
                    texts[index] += for_terminal(piece)
                return Outcome(adapter, stream.partial)
        except ClientError as error:
            texts[index] += f"\n[{type(error).__name__}]"
            return Outcome(adapter, error)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(follow(*each)) for each in enumerate(adapters)]
        pending = set(tasks)
        while pending:
            live.draw(texts)
            _, pending = await asyncio.wait(pending, timeout=REDRAW_S)
    live.finish(texts)
    return [task.result() for task in tasks]


async def _as_json(open_stream: Open, adapters: Sequence[str]) -> list[Outcome]:
    """One object per line, in the order in which the adapters were named."""
    outcomes = []
    for adapter in adapters:
        result: Generation | ClientError
        try:
            result = await open_stream(adapter).final()
            fields = answer_fields(result)
        except ClientError as error:
            result = error
            fields = failure_fields(error, adapter=adapter or None)
        _write(msgspec.json.encode(fields).decode() + "\n")
        outcomes.append(Outcome(adapter, result))
    return outcomes


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lorry generate",
        description="Prints what a model makes of a prompt, token by token. With several adapters, "
        "their answers stand side by side.",
    )
    add = parser.add_argument
    add(
        "prompt",
        nargs="?",
        type=text_or_file,
        metavar="PROMPT",
        help="the prompt; @FILE is a file's text, - or nothing is stdin",
    )
    add(
        "--adapter",
        action="append",
        metavar="ADAPTER",
        help='who answers (default: the base model, which is also ""); repeat it to compare',
    )
    add("--chat", action="store_true", help="the prompt is a user's message of a conversation")
    add(
        "--system",
        type=text_or_file,
        metavar="TEXT",
        help="the system message, or @FILE; implies --chat",
    )
    add("--json", action="store_true", help="print an object per answer, each on one line")
    add("--timings", action="store_true", help="draw where the time went, on stderr")
    add_sampling_options(parser)
    add_server_options(parser)
    return parser
