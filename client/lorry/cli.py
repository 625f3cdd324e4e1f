"""The `lorry` command: each subcommand's package is imported when it is called, not before."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from lorry._version import __version__

_USAGE_ERROR = 2
_OUR_PACKAGES = ("lorry", "lorry_server", "lorry_loadtest")


@dataclass(frozen=True, slots=True)
class Subcommand:
    """`module` has a `main(argv)`; `extra` is what must be installed for it."""

    summary: str
    module: str
    extra: str


_SUBCOMMANDS = {
    "serve": Subcommand("serve a model and its adapters over HTTP", "lorry_server.cli", "server"),
    "finetune": Subcommand(
        "train an adapter from a JSONL file", "lorry_server.finetune.cli", "finetune"
    ),
    "loadtest": Subcommand(
        "measure a server under load and write a report", "lorry_loadtest.cli", "loadtest"
    ),
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
    if name not in _SUBCOMMANDS:
        print(f"lorry: there is no command {name!r}\n\n{_help()}", file=sys.stderr)
        return _USAGE_ERROR
    return _run(name, _SUBCOMMANDS[name], rest)


def _run(name: str, command: Subcommand, argv: list[str]) -> int:
    try:
        status = importlib.import_module(command.module).main(argv)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in _OUR_PACKAGES and error.name != command.module.partition(".")[0]:
            raise  # a module of an installed package is missing: not what an extra would mend
        print(
            f'lorry {name} needs {missing}: pip install "lorry[{command.extra}]"',
            file=sys.stderr,
        )
        return 1
    return 0 if status is None else int(status)


def _help() -> str:
    lines = [f"  {name:<10} {command.summary}" for name, command in _SUBCOMMANDS.items()]
    lines.append(f"  {'version':<10} print the version")
    return "usage: lorry COMMAND ...\n\n" + "\n".join(lines) + "\n\nlorry COMMAND --help says more."
