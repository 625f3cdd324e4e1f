"""The completion script for zsh."""

from __future__ import annotations

from collections.abc import Sequence

from lorry.completion.cases import FLAGS_OF_HELP, offers, step
from lorry.completion.tree import Node

# `path` is zsh's own name for PATH, hence `at`; `${names:#}` is the array without empty ones
_HEAD = r"""#compdef lorry
# zsh completion of lorry; in ~/.zshrc, after compinit: eval "$(lorry completion zsh)"

_lorry_offer() {
    local -a names
    names=("${(@f)1}")
    compadd -- ${names:#}
}

_lorry_files() {
    _files
}

_lorry_adapters() {
    local -a server
    local i
    for ((i = 2; i < CURRENT - 1; i++)); do
        case ${words[i]} in
            (--url|--api-key) server+=("${words[i]}" "${words[i+1]}") ;;
        esac
    done
    _lorry_offer "$(lorry completion adapters "${server[@]}" 2>/dev/null)"
}

# asked once: such a command takes seconds to say what it knows
typeset -gA _lorry_flags_of
_lorry_flags() {
    if [[ -z ${_lorry_flags_of[$1]} ]]; then
        _lorry_flags_of[$1]=$(FLAGS_OF_HELP)
    fi
    _lorry_offer "${_lorry_flags_of[$1]}"
}

_lorry() {
    local word=$PREFIX previous=${words[CURRENT-1]} at='' next i
    for ((i = 2; i < CURRENT; i++)); do
        next=${words[i]}
""".replace("FLAGS_OF_HELP", FLAGS_OF_HELP)
_TAIL = r"""}

compdef _lorry lorry
"""


def zsh_script(nodes: Sequence[Node]) -> str:
    """The whole script."""
    return _HEAD + step(nodes) + "    done\n" + offers(nodes) + _TAIL
