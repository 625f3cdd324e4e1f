"""What the scripts for bash and zsh have in common: where in the command one is, and what to offer.

The text is read by both. It calls four functions that each script has of its own: `_lorry_offer`
(lines of text), `_lorry_files`, `_lorry_adapters` and `_lorry_flags`. `$at` is the command so far,
`$next` its next word, `$previous` the word before the one that is typed, `$word`.
"""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

from lorry.completion.tree import Kind, Node

# reads the options of command $1 off its help
FLAGS_OF_HELP = r"""lorry "$1" --help 2>/dev/null |
            grep -oE -- '(^|[^a-z-])--[a-z][a-z0-9-]*' | grep -oE -- '--.*' | sort -u"""


def step(nodes: Sequence[Node]) -> str:
    """The case that goes one word further into the command, if `$next` leads there."""
    pairs = [node.path.rpartition(" ") for node in nodes if node.path]
    places = "|".join(quote(f"{above} {name}") for above, _, name in pairs)
    return f"""\
        case "$at $next" in
            ({places}) at=${{at:+$at }}$next ;;
        esac
"""


def offers(nodes: Sequence[Node]) -> str:
    """The cases that offer the value of the option before, else options or arguments."""
    lines = ['    case "$at:$previous" in']
    for node in nodes:
        for option in node.options:
            if option.value != "nothing":
                places = "|".join(quote(f"{node.path}:{flag}") for flag in option.flags)
                lines.append(
                    f"        ({places}) {_action(option.value, option.choices)}; return ;;"
                )
    lines += ["    esac", '    case "$at" in']
    for node in nodes:
        flags = [flag for option in node.options for flag in option.flags] or ["--help"]
        offer_flags = f"_lorry_flags {node.path}" if node.asks_help else _offer(flags)
        lines += [
            f"        ({quote(node.path)})",
            f"            if [[ $word == -* ]]; then {offer_flags}",
            f"            else {_action(node.argument, node.choices)}",
            "            fi ;;",
        ]
    return "\n".join([*lines, "    esac", ""])


def _action(kind: Kind, choices: Sequence[str]) -> str:
    match kind:
        case "adapter":
            return "_lorry_adapters"
        case "file":
            return "_lorry_files"
        case "choice":
            return _offer(choices)
        case "text" | "nothing":
            return ":"


def _offer(words: Sequence[str]) -> str:
    return f"_lorry_offer {quote(chr(10).join(words))}"
