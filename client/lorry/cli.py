"""The `lorry` command: a table of subcommands."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lorry._version import __version__
from lorry.subcommand import Subcommand, run_subcommand

_USAGE_ERROR = 2

SUBCOMMANDS = {
    "serve": Subcommand("serve a model and its adapters over HTTP", "lorry_server.cli", "server"),
    "generate": Subcommand(
        "answer a prompt, by one adapter or several side by side", "lorry.generate_cli"
    ),
    "chat": Subcommand("talk with a model and change its adapter on the way", "lorry.chat_cli"),
    "adapters": Subcommand(
        "list, load, replace, unload and check a server's adapters", "lorry.adapters_cli"
    ),
    "finetune": Subcommand(
        "train an adapter from a JSONL file", "lorry_server.finetune.cli", "finetune"
    ),
    "loadtest": Subcommand(
        "measure a server under load and write a report", "lorry_loadtest.cli", "loadtest"
    ),
    "completion": Subcommand("print a script for bash, zsh or fish", "lorry.completion.cli"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit code: 2 for wrong usage, 1 for a missing extra."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    name, rest = arguments[0], arguments[1:]
    if name in ("version", "--version", "-V"):
        print(__version__)
        return 0
    if name not in SUBCOMMANDS:
        print(f"lorry: there is no command {name!r}\n\n{_help()}", file=sys.stderr)
        return _USAGE_ERROR
    return run_subcommand(name, SUBCOMMANDS[name], rest)


def _help() -> str:
    lines = [f"  {name:<10} {command.summary}" for name, command in SUBCOMMANDS.items()]
    lines.append(f"  {'version':<10} print the version")
    return "usage: lorry COMMAND ...\n\n" + "\n".join(lines) + "\n\nlorry COMMAND --help says more."
