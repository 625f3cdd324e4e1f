"""`lorry generate`: what it prints, where, and with which exit code it ends."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorry import cli
from tests.support.fake_llm_server import ReceivedRequest, Reply, completion
from tests.support.server_in_thread import ServerInThread
from tests.support.talking_script import Talking
from tests.support.terminal import PROGRAM, Terminal


@pytest.fixture
def talking() -> Talking:
    return Talking()


@pytest.fixture
def server(talking: Talking, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerInThread]:
    with ServerInThread(talking) as server:
        monkeypatch.setenv("LORRY_BASE_URL", server.url)
        monkeypatch.delenv("LORRY_API_KEY", raising=False)
        yield server


def run(*arguments: str) -> int:
    return cli.main(["generate", *arguments])


def test_the_text_is_all_of_stdout(
    server: ServerInThread, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("Hello", "--max-tokens", "9", "--temperature", "0.5", "--stop", "a", "--seed=3") == 0

    assert capsys.readouterr() == ("base: Arr, matey!\n", "")
    (request,) = server.requests
    assert request.path == "/v1/completions"
    sent = {name: request.json[name] for name in ("prompt", "max_tokens", "temperature", "seed")}
    assert sent == {"prompt": "Hello", "max_tokens": 9, "temperature": 0.5, "seed": 3}
    assert (request.json["stop"], request.json["stream"]) == (["a"], True)


def test_a_system_message_makes_it_a_conversation(
    server: ServerInThread, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "system.txt").write_text("Be brief.")
    assert run("Hello", "--system", f"@{tmp_path / 'system.txt'}", "--adapter", "pirate") == 0
    assert run("Hello", "--chat") == 0

    assert capsys.readouterr().out == "pirate: Arr, matey!\nbase: Arr, matey!\n"
    assert [request.path for request in server.requests] == ["/v1/chat/completions"] * 2
    user = {"role": "user", "content": "Hello"}
    assert server.requests[0].json["messages"] == [{"role": "system", "content": "Be brief."}, user]
    assert server.requests[1].json["messages"] == [user]


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_a_prompt_may_come_from_stdin(
    arguments: tuple[str, ...], server: ServerInThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("piped\nin"))

    assert run(*arguments) == 0
    assert server.requests[0].json["prompt"] == "piped\nin"


def test_a_prompt_may_come_from_a_file(server: ServerInThread, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("filed", encoding="utf-8")

    assert run(f"@{tmp_path / 'prompt.txt'}") == 0
    assert server.requests[0].json["prompt"] == "filed"


def test_several_adapters_answer_in_turn_where_nobody_looks(
    server: ServerInThread, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("Hello", "--adapter", "pirate", "--adapter", "") == 0

    assert capsys.readouterr().out == (
        "== pirate ==\npirate: Arr, matey!\n== base model ==\nbase: Arr, matey!\n"
    )


def test_json_is_an_object_per_line(
    server: ServerInThread, talking: Talking, capsys: pytest.CaptureFixture[str]
) -> None:
    talking.missing.add("nobody")
    arguments = [f"--adapter={name}" for name in ("pirate", "nobody", "")]
    assert run("Hello", "--json", *arguments) == 1

    captured = capsys.readouterr()
    first, second, third = (json.loads(line) for line in captured.out.splitlines())
    assert (first["adapter"], first["text"]) == ("pirate", "pirate: Arr, matey!")
    assert (first["finish_reason"], first["completion_tokens"]) == ("stop", 3)
    assert first["timing"]["ttft"] > 0
    assert first["timing"]["server"]["queue_ms"] == 2.0
    assert second["error"]["type"] == "AdapterNotFound"
    assert second["error"]["status"] == 404
    assert (third["adapter"], third["text"]) == (None, "base: Arr, matey!")
    assert captured.err.startswith("lorry generate: nobody: The model 'nobody' does not exist.")


def test_timings_are_drawn_on_stderr(
    server: ServerInThread, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("Hello", "--timings") == 0

    captured = capsys.readouterr()
    assert captured.out == "base: Arr, matey!\n"
    names = [line[:18].strip() for line in captured.err.splitlines()]
    wanted = ["client queue", "connect", "network", "server queue", "prefill", "decode"]
    assert [name for name in names if name in wanted] == wanted


def test_one_adapter_that_fails_does_not_keep_the_others_from_answering(
    server: ServerInThread, talking: Talking, capsys: pytest.CaptureFixture[str]
) -> None:
    talking.missing.add("nobody")
    assert run("Hello", "--adapter", "nobody", "--adapter", "pirate") == 1

    captured = capsys.readouterr()
    assert "pirate: Arr, matey!" in captured.out
    assert "`lorry adapters list` shows what there is" in captured.err
    assert captured.err.count("\n") == 1


def test_a_server_that_is_not_there_is_named_with_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{placeholder.getsockname()[1]}"
        assert run("Hello", "--url", url) == 1

    shown = capsys.readouterr().err
    assert url in shown
    assert "`lorry serve` starts a server" in shown
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("Hello", "--max-tokens", "0"),
        ("Hello", "--temperature", "warm"),
        ("@/nowhere/at/all",),
        ("Hello", "again"),
    ],
)
def test_wrong_usage_is_two(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)

    assert caught.value.code == 2
    assert "usage: lorry generate" in capsys.readouterr().err


def test_a_wrong_address_is_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("Hello", "--url", "ftp://x") == 2
    assert capsys.readouterr().err.startswith("lorry generate: base_url is 'ftp://x'")


def test_no_prompt_at_a_terminal_is_two(server: ServerInThread) -> None:
    with Terminal("generate") as terminal:
        assert terminal.wait() == 2
    assert "give a prompt" in terminal.shown


class Endless:
    """Says one word and then nothing, until the client leaves."""

    def __init__(self) -> None:
        self.left = threading.Event()

    async def __call__(self, request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(completion("Once", token_ids=[1]))
        await reply.client_left()
        self.left.set()


def test_ctrl_c_ends_the_stream_and_is_130() -> None:
    script = Endless()
    with ServerInThread(script) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "generate", "Hello", "--url", server.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 4) == b"Once"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert script.left.wait(10)
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()
        process.stdout.close()
        process.stderr.close()


def test_a_reader_that_leaves_is_no_error() -> None:
    class Chatty:
        async def __call__(self, request: ReceivedRequest, reply: Reply) -> None:
            await reply.start_stream()
            while True:
                await reply.events(completion("word " * 1000))
                await asyncio.sleep(0)

    with ServerInThread(Chatty()) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "generate", "Hello", "--url", server.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdout.read(4) == b"word"
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait(30) == 1


def test_at_a_terminal_answers_stand_side_by_side(server: ServerInThread) -> None:
    with Terminal("generate", "Hello", "--adapter", "pirate", "--adapter", "sql") as terminal:
        assert terminal.wait() == 0

    last = terminal.shown.rpartition("\x1b[J")[2].splitlines()
    assert [cell.strip() for cell in last[0].split("│")] == ["pirate", "sql"]
    assert [cell.strip() for cell in last[2].split("│")] == [
        "pirate: Arr, matey!",
        "sql: Arr, matey!",
    ]


def test_a_plain_or_narrow_terminal_gets_one_after_another(server: ServerInThread) -> None:
    for env in ({"TERM": "dumb"}, {"COLUMNS": "30"}):
        with Terminal("generate", "Hello", "--adapter", "a", "--adapter", "b", env=env) as terminal:
            assert terminal.wait() == 0
        assert "== a ==" in terminal.shown
        assert "\x1b" not in terminal.shown


def test_what_a_model_says_cannot_steer_the_terminal(
    server: ServerInThread, talking: Talking
) -> None:
    talking.words = ("\x1b[2Jcleared\r\x07",)
    with Terminal("generate", "Hello") as terminal:
        assert terminal.wait() == 0

    assert "\x1b" not in terminal.shown
    assert "cleared" in terminal.shown
