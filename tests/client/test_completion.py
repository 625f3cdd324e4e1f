"""Shell completion: what the scripts offer, asked of a real bash where one can tell."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from lorry import cli
from lorry.cli import SUBCOMMANDS
from lorry.completion.fish import fish_script
from lorry.completion.tree import Node, Option, command_nodes
from lorry.completion.zsh import zsh_script
from tests.support.fake_adapter_routes import card
from tests.support.server_in_thread import ServerInThread
from tests.support.talking_script import Talking
from tests.support.terminal import PROGRAM

BASH = shutil.which("bash")
Complete = Callable[[str], list[str]]

ASK = r"""
eval "$(lorry completion bash)"
COMP_LINE=$1
read -ra COMP_WORDS <<<"$COMP_LINE"
[[ $COMP_LINE == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_lorry
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def complete(tmp_path: Path) -> Iterator[Complete]:
    """Asks bash what it would offer at the end of a line."""
    talking = Talking()
    talking.routes.cards["odd"] = card("$(touch hacked) `x`", "/odd")
    command = tmp_path / "lorry"
    # a server of a busy machine may take longer than anybody would wait at a prompt
    program = f"import lorry.completion.cli as asking; asking.ASK_SERVER_S = 20.0; {PROGRAM}"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{program}" "$@"\n')
    command.chmod(0o755)
    (tmp_path / "a file.txt").touch()
    with ServerInThread(talking) as server:
        env = {
            **os.environ,
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "LORRY_BASE_URL": server.url,
        }

        def ask(line: str) -> list[str]:
            done = subprocess.run(
                [str(BASH), "--norc", "-c", ASK, "bash", line],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
                cwd=tmp_path,
                env=env,
            )
            assert done.stderr == ""
            return done.stdout.split("\n")[:-1]

        yield ask


pytestmark = pytest.mark.skipif(BASH is None, reason="the script is for bash")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("lorry gen", ["generate"]),
        ("lorry c", ["chat", "completion"]),
        ("lorry generate --ma", ["--max-tokens"]),
        ("lorry generate --adapter p", ["pirate"]),
        ("lorry generate --max-tokens ", [""]),
        ("lorry adapters un", ["unload"]),
        ("lorry adapters unload s", ["sql"]),
        ("lorry adapters load --re", ["--replace"]),
        ("lorry completion z", ["zsh"]),
        ("lorry chat --history a", ["a file.txt"]),
        ("lorry nothing here ", sorted([*SUBCOMMANDS, "version"])),
    ],
)
def test_what_bash_offers(line: str, offered: list[str], complete: Complete) -> None:
    assert sorted(complete(line)) == offered


def test_names_of_a_server_are_quoted_and_never_run(complete: Complete, tmp_path: Path) -> None:
    offered = complete("lorry chat --adapter ")

    assert len(offered) == 3
    assert r"\$\(touch\ hacked\)\ \`x\`" in offered
    assert not (tmp_path / "hacked").exists()


def test_a_url_on_the_line_is_asked(complete: Complete) -> None:
    assert complete("lorry generate --url http://127.0.0.1:9 --adapter ") == [""]


def test_options_of_a_command_of_another_package_are_asked_of_its_help(complete: Complete) -> None:
    assert complete("lorry finetune --da") == ["--data"]


def test_a_server_that_does_not_answer_is_not_waited_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        assert cli.main(["completion", "adapters", "--url", url]) == 0
        took_s = time.monotonic() - started

    assert capsys.readouterr() == ("", "")
    assert took_s < 10  # without the limit of half a second it would be ten minutes


# what zsh would have: its arrays count from 1, and the functions that are zsh's own only say who they are
ASK_AS_ZSH = r"""
compdef() { :; }
eval "$(cat)"
_lorry_offer() {
    while IFS= read -r line; do
        [[ $line == "$PREFIX"* ]] && printf '%s\n' "$line"
    done <<<"$1"
}
_lorry_files() { echo 'a file'; }
_lorry_adapters() { echo 'an adapter'; }
_lorry_flags() { echo "an option of $1"; }
read -ra typed <<<"$1"
[[ $1 == *' ' ]] && typed+=('')
words=('' "${typed[@]}")
CURRENT=${#typed[@]}
PREFIX=${words[CURRENT]}
_lorry
"""


def offered_by_the_zsh_script(line: str, nodes: Sequence[Node], tmp_path: Path) -> list[str]:
    """The script's own decisions, which bash can make too: the cases are the same text in both."""
    done = subprocess.run(
        [str(BASH), "--norc", "-c", ASK_AS_ZSH, "bash", line],
        input=zsh_script(nodes),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("lorry gen", ["generate"]),
        ("lorry c", ["chat", "completion"]),
        ("lorry generate --ma", ["--max-tokens"]),
        ("lorry generate --adapter p", ["an adapter"]),
        ("lorry generate --max-tokens ", []),
        ("lorry adapters un", ["unload"]),
        ("lorry adapters unload s", ["an adapter"]),
        ("lorry adapters load --re", ["--replace"]),
        ("lorry completion z", ["zsh"]),
        ("lorry chat --history a", ["a file"]),
        ("lorry finetune --da", ["an option of finetune"]),
        ("lorry nothing here ", sorted([*SUBCOMMANDS, "version"])),
    ],
)
def test_what_the_zsh_script_offers(line: str, offered: list[str], tmp_path: Path) -> None:
    nodes = command_nodes(SUBCOMMANDS)

    assert sorted(offered_by_the_zsh_script(line, nodes, tmp_path)) == offered


ODD = 'it\'s $(touch hacked) `touch hacked` \\ "100%"'
ODD_NODES = [
    Node("", "", argument="choice", choices=("odd",)),
    Node("odd", ODD, options=(Option(("-o", "--one"), ODD, "choice", (ODD,)),)),
]


def test_odd_words_are_offered_by_the_zsh_script_as_they_are(tmp_path: Path) -> None:
    assert offered_by_the_zsh_script("lorry odd --one ", ODD_NODES, tmp_path) == [ODD]
    assert not (tmp_path / "hacked").exists()


def fish_words(line: str) -> list[str]:
    """A line as fish divides it: between quotes only a quote and a backslash can be escaped."""
    pattern = r"'((?:[^'\\]|\\['\\])*)'|([\w./-]+)"
    assert re.fullmatch(rf"(?:(?:{pattern})(?: |$))+", line), line
    return [
        plain or re.sub(r"\\(['\\])", r"\1", quoted) for quoted, plain in re.findall(pattern, line)
    ]


def fish_completions(nodes: Sequence[Node]) -> dict[str, list[list[str]]]:
    """What follows the condition in each line of the fish script, by the command of the condition."""
    found: dict[str, list[list[str]]] = {}
    for line in fish_script(nodes).splitlines():
        if line.startswith("complete -c lorry -n "):
            words = fish_words(line)
            where = words[4].removeprefix("__lorry_at").strip()
            found.setdefault(where, []).append(words[5:])
    return found


@pytest.mark.parametrize("nodes", [command_nodes(SUBCOMMANDS), ODD_NODES], ids=["lorry's", "odd"])
def test_the_fish_script_has_every_command_and_option_with_its_summary(
    nodes: Sequence[Node],
) -> None:
    completions = fish_completions(nodes)

    assert set(completions) == {
        node.path for node in nodes if node.options or node.argument != "text"
    }
    for node in nodes:
        lines = completions[node.path]
        for option in node.options:
            flags = [
                word
                for flag in option.flags
                for word in (("-l", flag[2:]) if flag.startswith("--") else ("-s", flag[1:]))
            ]
            (line,) = [line for line in lines if line[: len(flags)] == flags]
            assert ("-r" in line) is (option.value != "nothing")
            assert line[-2:] == ["-d", option.summary]
            if option.value == "choice":  # these words are expanded once more
                assert fish_words(line[line.index("-a") + 1]) == list(option.choices)
        if node.argument == "choice":
            choices = [fish_words(line[1]) for line in lines if line[0] == "-a"]
            assert choices == [[choice] for choice in node.choices]


def test_the_scripts_of_shells_that_are_here_are_valid(capsys: pytest.CaptureFixture[str]) -> None:
    checked = []
    for shell in ("bash", "zsh", "fish"):
        assert cli.main(["completion", shell]) == 0
        script = capsys.readouterr().out
        if shutil.which(shell) is not None:
            done = subprocess.run(
                [shell, "-n"], input=script, text=True, capture_output=True, check=False
            )
            assert (done.returncode, done.stderr) == (0, "")
            checked.append(shell)

    assert "bash" in checked


def test_an_unknown_shell_is_two(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["completion", "tcsh"])

    assert caught.value.code == 2
