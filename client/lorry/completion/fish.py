"""The completion script for fish, 3.0 and later."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lorry.completion.tree import Kind, Node

_HEAD = r"""# fish completion of lorry; in config.fish: lorry completion fish | source

function __lorry_adapters
    set -l typed (commandline -opc)
    set -l server
    for i in (seq 2 (math (count $typed) - 1))
        if contains -- $typed[$i] --url --api-key
            set -a server $typed[$i] $typed[(math $i + 1)]
        end
    end
    lorry completion adapters $server 2>/dev/null
end

# asked once: such a command takes seconds to say what it knows
function __lorry_flags
    set -l cache __lorry_flags_of_$argv[1]
    if not set -q $cache
        set -g $cache (lorry $argv[1] --help 2>/dev/null | string match -ar -- '--[a-z][a-z0-9-]*' | sort -u)
    end
    printf '%s\n' $$cache
end

"""


def fish_script(nodes: Sequence[Node]) -> str:
    """The whole script."""
    places = [node.path.rpartition(" ") for node in nodes if node.path]
    known = " ".join(_quoted(f"{above} {name}") for above, _, name in places)
    where = [
        "function __lorry_at",
        "    set -l at ''",
        "    for word in (commandline -opc)[2..-1]",
        f'        if contains -- "$at $word" {known}',
        '            set at (string trim -- "$at $word")',
        "        end",
        "    end",
        '    test "$at" = "$argv"',
        "end",
        "",
        "complete -c lorry -f",
    ]
    lines = [line for node in nodes for line in _lines_of(node, nodes)]
    return _HEAD + "\n".join(where + lines) + "\n"


def _lines_of(node: Node, nodes: Sequence[Node]) -> Iterator[str]:
    begin = f"complete -c lorry -n {_quoted(f'__lorry_at {node.path}'.strip())}"
    summaries = {other.path: other.summary for other in nodes}
    if node.argument == "choice":
        for choice in node.choices:
            summary = summaries.get(f"{node.path} {choice}".strip(), "")
            yield f"{begin} -a {_quoted(_word(choice))}{_description(summary)}"
    elif node.argument in ("adapter", "file"):
        yield f"{begin}{_offer(node.argument, ())}"
    if node.asks_help:
        yield f"{begin} -a {_quoted(f'(__lorry_flags {node.path})')}"
    for option in node.options:
        flags = "".join(
            f" -l {flag[2:]}" if flag.startswith("--") else f" -s {flag[1:]}"
            for flag in option.flags
        )
        value = "" if option.value == "nothing" else " -r" + _offer(option.value, option.choices)
        yield f"{begin}{flags}{value}{_description(option.summary)}"


def _offer(kind: Kind, choices: Sequence[str]) -> str:
    match kind:
        case "adapter":
            return " -a '(__lorry_adapters)'"
        case "file":
            return " -F"
        case "choice":
            return f" -a {_quoted(' '.join(map(_word, choices)))}"
        case "text" | "nothing":
            return ""


def _description(summary: str) -> str:
    return f" -d {_quoted(summary)}" if summary else ""


def _word(text: str) -> str:
    """One word of what follows `-a`, which fish expands once more."""
    return text if text.replace("-", "").isalnum() else _quoted(text)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
