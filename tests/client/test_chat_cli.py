"""`lorry chat`: a conversation at a terminal, and lines from a pipe."""

from __future__ import annotations

import io
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lorry import cli
from tests.support.fake_adapter_routes import PATH
from tests.support.fake_llm_server import ReceivedRequest, Reply, chat_chunk
from tests.support.server_in_thread import ServerInThread
from tests.support.talking_script import Talking
from tests.support.terminal import Terminal


@pytest.fixture
def talking() -> Talking:
    return Talking()


@pytest.fixture
def server(talking: Talking, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerInThread]:
    with ServerInThread(talking) as server:
        monkeypatch.setenv("LORRY_BASE_URL", server.url)
        monkeypatch.delenv("LORRY_API_KEY", raising=False)
        yield server


def say(monkeypatch: pytest.MonkeyPatch, *lines: str, arguments: tuple[str, ...] = ()) -> int:
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    return cli.main(["chat", *arguments])


def asked(server: ServerInThread) -> list[ReceivedRequest]:
    return [request for request in server.requests if request.path.endswith("/completions")]


def test_lines_from_a_pipe_are_answered_in_turn_and_remembered(
    server: ServerInThread, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say(monkeypatch, "Who?", "", "And why?", arguments=("--system", "Be brief.")) == 0

    assert capsys.readouterr().out == "base: Arr, matey!\n" * 2
    assert asked(server)[1].json["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "base: Arr, matey!"},
        {"role": "user", "content": "And why?"},
    ]


def test_adapter_and_system_message_change_on_the_way(
    server: ServerInThread, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ("/adapter pirate", "One", "/system Be loud.", "/adapter", "/reset", "Two")
    assert say(monkeypatch, *lines, arguments=("--max-tokens", "7")) == 0

    first, second = asked(server)
    assert (first.json["model"], first.json["max_tokens"]) == ("pirate", 7)
    assert second.json["model"] == ""
    assert second.json["messages"] == [
        {"role": "system", "content": "Be loud."},
        {"role": "user", "content": "Two"},
    ]
    assert "answered by: pirate" in capsys.readouterr().out


def test_adapters_are_listed(
    server: ServerInThread, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say(monkeypatch, "/adapters") == 0
    assert capsys.readouterr().out.splitlines()[0].split()[0] == "NAME"


def test_compare_asks_the_last_question_of_several_and_changes_nothing(
    server: ServerInThread, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert say(monkeypatch, "/compare a b", "One", "Two", "/compare pirate -", "Three") == 0

    captured = capsys.readouterr()
    assert "there is no question yet" in captured.err
    assert "== pirate ==\npirate: Arr, matey!\n== base model ==\nbase: Arr" in captured.out
    requests = asked(server)
    assert [request.json["model"] for request in requests] == ["", "", "pirate", "", ""]
    assert requests[2].json["messages"] == requests[1].json["messages"]
    assert len(requests[4].json["messages"]) == 5


def test_a_conversation_is_saved_as_training_data(
    server: ServerInThread, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert say(monkeypatch, "One", f"/save {tmp_path / 'chat.jsonl'}") == 0

    (line,) = (tmp_path / "chat.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "messages": [
            {"role": "user", "content": "One"},
            {"role": "assistant", "content": "base: Arr, matey!"},
        ]
    }


def test_wrong_commands_are_named_and_do_no_harm(
    server: ServerInThread, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = ("/sing", "/save", "/save /nowhere/at/all", "/compare one", "/help", "One")
    assert say(monkeypatch, *lines) == 0

    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "there is no command '/sing'; /help lists them",
        "/save needs a file",
        "cannot write '/nowhere/at/all': No such file or directory",
        "/compare needs the names of two adapters or more; - is the base model",
    ]
    assert "/adapter [NAME]" in captured.out
    assert captured.out.endswith("base: Arr, matey!\n")


def test_an_error_ends_a_pipe_with_one(
    server: ServerInThread,
    talking: Talking,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    talking.missing.add("nobody")
    assert say(monkeypatch, "/adapter nobody", "One", "Two") == 1

    assert len(asked(server)) == 1
    assert "lorry chat: The model 'nobody' does not exist." in capsys.readouterr().err


def test_a_server_that_is_not_there_is_named_before_anything_is_typed() -> None:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{placeholder.getsockname()[1]}"
        with Terminal("chat", "--url", url) as terminal:
            assert terminal.wait() == 1

    assert url in terminal.shown
    assert "`lorry serve` starts a server" in terminal.shown
    assert "Traceback" not in terminal.shown


class SlowAtFirst(Talking):
    """Says a word of its first answer, and the rest never."""

    def __init__(self) -> None:
        super().__init__()
        self.num_asked = 0

    async def __call__(self, request: ReceivedRequest, reply: Reply) -> None:
        if request.path.startswith(PATH) or request.method == "GET":
            await super().__call__(request, reply)
            return
        self.num_asked += 1
        if self.num_asked > 1:
            await super().__call__(request, reply)
            return
        await reply.start_stream()
        await reply.events(chat_chunk({"content": "Once"}))
        await reply.client_left()


def test_at_a_terminal_ctrl_c_stops_the_answer_and_ctrl_d_leaves(tmp_path: Path) -> None:
    history = tmp_path / "history"
    with (
        ServerInThread(SlowAtFirst()) as server,
        Terminal("chat", "--url", server.url, "--history", str(history)) as terminal,
    ):
        terminal.until("base model> ")
        terminal.type("Tell me a story\n")
        terminal.until("Once")
        terminal.interrupt()
        terminal.until("stopped")
        terminal.until("base model> ")
        terminal.type("/adapter pi\t\n")
        terminal.until("answered by: pirate")
        terminal.until("pirate> ")
        terminal.type("Go on\n")
        terminal.until("Arr, matey!")
        terminal.until("pirate> ")
        terminal.type("half a line")
        terminal.until("half a line")
        terminal.interrupt_until("pirate> ")
        terminal.type("\x04")
        assert terminal.wait() == 0

    assert "Traceback" not in terminal.shown
    messages = asked(server)[-1].json["messages"]
    assert [message["content"] for message in messages] == ["Tell me a story", "Once", "Go on"]
    assert "Tell me a story" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0
