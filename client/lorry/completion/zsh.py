"""The completion script for zsh."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

from lorry.completion.tree import Kind, Node

# `path` is zsh's own name for PATH, hence `at`
_HEAD = r"""#compdef lorry
# zsh completion of lorry; in ~/.zshrc, after compinit: eval "$(lorry completion zsh)"

_lorry_adapters() {
    local -a server names
    local i
    for ((i = 2; i < CURRENT - 1; i++)); do
        case ${words[i]} in
            (--url|--api-key) server+=("${words[i]}" "${words[i+1]}") ;;
        esac
    done
    names=("${(@f)$(lorry completion adapters "${server[@]}" 2>/dev/null)}")
    compadd -- ${names:#}
}

# asked once: such a command takes seconds to say what it knows
typeset -gA _lorry_flags_of
_lorry_flags() {
    if [[ -z ${_lorry_flags_of[$1]} ]]; then
        _lorry_flags_of[$1]=$(lorry "$1" --help 2>/dev/null |
            grep -oE -- '(^|[^a-z-])--[a-z][a-z0-9-]*' | grep -oE -- '--.*' | sort -u)
    fi
    compadd -- ${(f)_lorry_flags_of[$1]}
}

_lorry() {
    local at='' previous=${words[CURRENT-1]} i
    for ((i = 2; i < CURRENT; i++)); do
        case "$at ${words[i]}" in
"""
_TAIL = r"""    esac
}

compdef _lorry lorry
"""


def zsh_script(nodes: Sequence[Node]) -> str:
    """The whole script."""
    lines = [f"            ({_places(nodes)}) at=${{at:+$at }}${{words[i]}} ;;"]
    lines += ["        esac", "    done", '    case "$at:$previous" in']
    for node in nodes:
        for option in node.options:
            if option.value != "nothing":
                pattern = "|".join(quote(f"{node.path}:{flag}") for flag in option.flags)
                lines.append(
                    f"        ({pattern}) {_action(option.value, option.choices)}; return ;;"
                )
    lines += ["    esac", '    case "$at" in']
    for node in nodes:
        flags = [flag for option in node.options for flag in option.flags] or ["--help"]
        offer_flags = f"_lorry_flags {node.path}" if node.asks_help else _offer(flags)
        lines += [
            f"        ({quote(node.path)})",
            f"            if [[ $PREFIX == -* ]]; then {offer_flags}",
            f"            else {_action(node.argument, node.choices)}",
            "            fi ;;",
        ]
    return _HEAD + "\n".join(lines) + "\n" + _TAIL


def _places(nodes: Sequence[Node]) -> str:
    pairs = [node.path.rpartition(" ") for node in nodes if node.path]
    return "|".join(quote(f"{above} {name}") for above, _, name in pairs)


def _action(kind: Kind, choices: Sequence[str]) -> str:
    match kind:
        case "adapter":
            return "_lorry_adapters"
        case "file":
            return "_files"
        case "choice":
            return _offer(choices)
        case "text" | "nothing":
            return ":"


def _offer(words: Sequence[str]) -> str:
    return f"compadd -- {' '.join(quote(word) for word in words)}"
