"""The completion script for bash, 3.2 and later."""

from __future__ import annotations

from collections.abc import Sequence

from lorry.completion.cases import FLAGS_OF_HELP, offers, step
from lorry.completion.tree import Node

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
            (--url|--api-key) server+=("${typed[i]}" "${typed[i + 1]}") ;;
        esac
    done
    _lorry_offer "$(lorry completion adapters "${server[@]}" 2>/dev/null)"
}

# asked once: such a command takes seconds to say what it knows
_lorry_flags() {
    local cache=_lorry_flags_of_$1
    if [[ -z ${!cache} ]]; then
        printf -v "$cache" '%s' "$(FLAGS_OF_HELP)"
    fi
    _lorry_offer "${!cache}"
}

_lorry() {
    local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} at='' next i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        next=${COMP_WORDS[i]}
""".replace("FLAGS_OF_HELP", FLAGS_OF_HELP)
_TAIL = r"""}

complete -F _lorry lorry
"""


def bash_script(nodes: Sequence[Node]) -> str:
    """The whole script."""
    return _HEAD + step(nodes) + "    done\n" + offers(nodes) + _TAIL
