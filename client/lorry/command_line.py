"""What commands that speak to a server have in common: options, exit codes, advice with errors."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from lorry.adapter_report import printable
from lorry.errors import AdapterNotFound, ClientError, ConfigError, ConnectError, Unauthorized
from lorry.options import GenerateOptions

DONE, FAILED, USAGE_ERROR, INTERRUPTED = 0, 1, 2, 130

# whatever a terminal would obey but line ends and tabs; zero-width joiners belong to emoji and stay
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """`--url`, `--api-key` and `--timeout`: what `AsyncClient` takes."""
    parser.add_argument("--url", help="the server (default: LORRY_BASE_URL, or port 8000 here)")
    parser.add_argument("--api-key", metavar="KEY", help="default: LORRY_API_KEY")
    parser.add_argument(
        "--timeout", type=float, metavar="S", help="at most so long for a whole answer"
    )


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """How long answers may be and how their tokens are chosen; the server judges the values."""
    group = parser.add_argument_group("sampling", "What is not given is the server's to choose.")
    add = group.add_argument
    add("--max-tokens", type=positive, metavar="N", help="the longest answer, in tokens")
    add("--temperature", type=float, metavar="T", help="0 always takes the likeliest token")
    add("--top-p", type=float, metavar="P", help="only the likeliest tokens that make up P")
    add("--top-k", type=int, metavar="K", help="only the K likeliest tokens")
    add("--min-p", type=float, metavar="P", help="only tokens P times as likely as the likeliest")
    add("--presence-penalty", type=float, metavar="X", help="against tokens that were there")
    add("--frequency-penalty", type=float, metavar="X", help="the same for each time")
    add("--repetition-penalty", type=float, metavar="X", help="divides such tokens' logits")
    add("--stop", action="append", metavar="TEXT", help="end before this text; may be repeated")
    add("--seed", type=int, metavar="N", help="the same answer again")


def sampling_options(namespace: argparse.Namespace) -> GenerateOptions:
    """What the options above were set to, as `generate` takes them."""
    return {
        "max_tokens": namespace.max_tokens,
        "temperature": namespace.temperature,
        "top_p": namespace.top_p,
        "top_k": namespace.top_k,
        "min_p": namespace.min_p,
        "presence_penalty": namespace.presence_penalty,
        "frequency_penalty": namespace.frequency_penalty,
        "repetition_penalty": namespace.repetition_penalty,
        "stop": namespace.stop,
        "seed": namespace.seed,
    }


def positive(text: str) -> int:
    """An argparse type: a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def text_or_file(text: str) -> str:
    """An argparse type: the text itself, the content of a file for `@file`."""
    if not text.startswith("@"):
        return text
    try:
        return Path(text[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"cannot read {text[1:]!r}: {error}") from None


def explained(error: ClientError) -> str:
    """An error in one line: what is wrong, and what to do about it."""
    advice = ""
    if isinstance(error, ConnectError):
        advice = "; `lorry serve` starts a server, and its address is --url, or LORRY_BASE_URL"
    elif isinstance(error, Unauthorized):
        advice = "; the key is --api-key, or LORRY_API_KEY"
    elif isinstance(error, AdapterNotFound):
        advice = "; `lorry adapters list` shows what there is"
    return printable(f"{error}{advice}")


def complain(command: str, text: str) -> None:
    """Say what went wrong, on stderr."""
    print(f"lorry {command}: {text}", file=sys.stderr, flush=True)


def finish(command: str, work: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run a command to its exit code; errors become lines, ctrl-C 130 after all is closed."""
    try:
        return asyncio.run(work())
    except ClientError as error:
        complain(command, explained(error))
        return USAGE_ERROR if isinstance(error, ConfigError) else FAILED
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        silence_stdout()  # whoever reads has left, as `head` does
        return FAILED


def silence_stdout() -> None:
    """Give up stdout, so that the interpreter does not complain of it at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def for_terminal(text: str) -> str:
    """Text as a terminal may get it: marks instead of whatever would steer it."""
    return _CONTROLS.sub("�", text)
