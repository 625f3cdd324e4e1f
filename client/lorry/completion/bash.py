"""The completion script for bash, 3.2 and later."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

from lorry.completion.tree import Kind, Node

# Names come from a server: `compgen -W` would expand what is in them, so they are only compared
# and then quoted.
_HEAD = r"""# bash completion of lorry; in ~/.bashrc: eval "$(lorry completion bash)"

_lorry_offer() {
    local candidate
    while IFS= read -r candidate; do
        if [[ -n $candidate && $candidate == "$word"* ]]; then
            COMPREPLY+=("$(printf '%q' "$candidate")")
        fi
    done <<<"$1"
}

_lorry_files() {
    local file
    compopt -o filenames 2>/dev/null
    while IFS= read -r file; do
        COMPREPLY+=("$file")
    done < <(compgen -f -- "$word")
}

# the words are taken from the line: bash itself divides them at the colons of a URL
_lorry_adapters() {
    local -a typed server=()
    local i
    read -ra typed <<<"$COMP_LINE"
    for ((i = 1; i < ${#typed[@]} - 1; i++)); do
        case ${typed[i]} in
            --url | --api-key) server+=("${typed[i]}" "${typed[i + 1]}") ;;
        esac
    done
    _lorry_offer "$(lorry completion adapters "${server[@]}" 2>/dev/null)"
}

# asked once: such a command takes seconds to say what it knows
_lorry_flags() {
    local cache=_lorry_flags_of_$1
    if [[ -z ${!cache} ]]; then
        printf -v "$cache" '%s' "$(lorry "$1" --help 2>/dev/null |
            grep -oE -- '(^|[^a-z-])--[a-z][a-z0-9-]*' | grep -oE -- '--.*' | sort -u)"
    fi
    _lorry_offer "${!cache}"
}

_lorry() {
    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} at='' i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$at ${COMP_WORDS[i]}" in
"""
_TAIL = r"""    esac
}

complete -F _lorry lorry
"""


def bash_script(nodes: Sequence[Node]) -> str:
    """The whole script."""
    lines = [f"            {_places(nodes)}) at=${{at:+$at }}${{COMP_WORDS[i]}} ;;"]
    lines += ["        esac", "    done", '    case "$at:$previous" in']
    for node in nodes:
        for option in node.options:
            if option.value != "nothing":
                pattern = " | ".join(quote(f"{node.path}:{flag}") for flag in option.flags)
                lines += [
                    f"        {pattern})",
                    f"            {_action(option.value, option.choices)}",
                    "            return",
                    "            ;;",
                ]
    lines += ["    esac", '    case "$at" in']
    for node in nodes:
        lines += [f"        {quote(node.path)})", "            if [[ $word == -* ]]; then"]
        flags = [flag for option in node.options for flag in option.flags] or ["--help"]
        offer_flags = f"_lorry_flags {node.path}" if node.asks_help else _offer(flags)
        lines += [f"                {offer_flags}", "            else"]
        lines += [f"                {_action(node.argument, node.choices)}"]
        lines += ["            fi", "            ;;"]
    return _HEAD + "\n".join(lines) + "\n" + _TAIL


def _places(nodes: Sequence[Node]) -> str:
    """The patterns of `where one is` and `the next word` that lead further down."""
    pairs = [node.path.rpartition(" ") for node in nodes if node.path]
    return " | ".join(quote(f"{above} {name}") for above, _, name in pairs)


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
