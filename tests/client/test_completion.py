"""Shell completion: what the scripts offer, asked of a real bash."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lorry import cli
from lorry.cli import SUBCOMMANDS
from lorry.completion.tree import command_nodes
from tests.support.fake_adapter_routes import card
from tests.support.server_in_thread import ServerInThread
from tests.support.talking_script import Talking
from tests.support.terminal import PROGRAM
from tests.support.thread_lag import ThreadLag

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
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{PROGRAM}" "$@"\n')
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


def test_a_server_that_does_not_answer_costs_half_a_second(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with ThreadLag() as lag:
            started = time.monotonic()
            assert cli.main(["completion", "adapters", "--url", url]) == 0
            took_s = time.monotonic() - started

    assert capsys.readouterr() == ("", "")
    # with the import of the HTTP library; without the limit it would be ten minutes
    assert took_s < 0.5 + 0.5 + lag.longest_s


def in_zsh(flag: str) -> str:
    return flag


def in_fish(flag: str) -> str:
    return f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"


@pytest.mark.parametrize(("shell", "spelt"), [("zsh", in_zsh), ("fish", in_fish)])
def test_other_shells_get_every_command_and_option(
    shell: str, spelt: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["completion", shell]) == 0

    script = capsys.readouterr().out
    nodes = command_nodes(SUBCOMMANDS)
    assert {"generate", "adapters load", "serve"} <= {node.path for node in nodes}
    for node in nodes:
        assert node.path in script
        for option in node.options:
            assert all(spelt(flag) in script for flag in option.flags)


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
