"""`lorry completion`: prints a script for a shell, and the names that such a script asks for."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence

from lorry.adapter_report import printable
from lorry.blocking.client import Client
from lorry.cli import SUBCOMMANDS
from lorry.command_line import DONE
from lorry.completion.bash import bash_script
from lorry.completion.fish import fish_script
from lorry.completion.tree import command_nodes
from lorry.completion.zsh import zsh_script
from lorry.errors import ClientError
from lorry.retry import RetryPolicy

# somebody has pressed a key and waits
ASK_SERVER_S = 0.5

_SCRIPTS = {"bash": bash_script, "zsh": zsh_script, "fish": fish_script}


def main(argv: Sequence[str] | None = None) -> int:
    """Print a script, or a name per line; a server that is not there has no names."""
    namespace = make_parser().parse_args(argv)
    if namespace.what == "adapters":
        for name in _adapter_names(namespace.url, namespace.api_key):
            print(name)
    else:
        print(_SCRIPTS[namespace.what](command_nodes(SUBCOMMANDS)), end="")
    return DONE


def _adapter_names(url: str | None, api_key: str | None) -> list[str]:
    # nothing may be said in the middle of a line that is being typed
    with (
        contextlib.suppress(ClientError),
        Client(
            url, api_key=api_key, timeout=ASK_SERVER_S, retry=RetryPolicy(max_attempts=1)
        ) as client,
    ):
        return [printable(card.id) for card in client.adapters.list()]
    return []


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lorry completion",
        description="Prints a script that completes commands, options and adapters. For bash, in "
        '~/.bashrc: eval "$(lorry completion bash)"',
    )
    parser.add_argument(
        "what",
        choices=[*_SCRIPTS, "adapters"],
        metavar="SHELL",
        help="bash, zsh or fish; `adapters` prints the names that a running server has",
    )
    parser.add_argument("--url", help="the server (default: LORRY_BASE_URL, or port 8000 here)")
    parser.add_argument("--api-key", metavar="KEY", help="default: LORRY_API_KEY")
    return parser
