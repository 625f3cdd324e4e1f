"""`Subcommand`: a command whose package is imported when it is called, and may not be installed."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass

_OUR_PACKAGES = ("lorry", "lorry_server", "lorry_loadtest")


@dataclass(frozen=True, slots=True)
class Subcommand:
    """`module` has a `main(argv)`; `extra` is what must be installed for it, None for nothing."""

    summary: str
    module: str
    extra: str | None = None


def run_subcommand(name: str, command: Subcommand, argv: list[str]) -> int:
    """Hand over to the command and return its exit code; 1 where its extra is not installed."""
    try:
        status = importlib.import_module(command.module).main(argv)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in _OUR_PACKAGES and error.name != command.module.partition(".")[0]:
            raise  # a module of an installed package is missing: not what an extra would mend
        package = "lorry" if command.extra is None else f"lorry[{command.extra}]"
        print(f'lorry {name} needs {missing}: pip install "{package}"', file=sys.stderr)
        return 1
    return 0 if status is None else int(status)
