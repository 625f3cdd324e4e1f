"""`lorry adapters`: what it prints, and with which exit code it ends."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from lorry import cli
from lorry.adapter_report import size
from tests.support.fake_adapter_routes import BROKEN, MISSING, FakeAdapterRoutes, card
from tests.support.fake_llm_server import ReceivedRequest, Reply
from tests.support.server_in_thread import ServerInThread


class ServerThread(ServerInThread):
    """A server with two adapters, which may want a key."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.routes = FakeAdapterRoutes(sql="/adapters/sql", pirate="/adapters/pirate")
        self.key: str | None = None

    async def _answer(self, request: ReceivedRequest, reply: Reply) -> None:
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            await reply.json(401, {"error": {"message": "the key is wrong", "type": "auth"}})
            return
        await self.routes(request, reply)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerThread]:
    with ServerThread() as fake:
        monkeypatch.setenv("LORRY_BASE_URL", fake.url)
        monkeypatch.delenv("LORRY_API_KEY", raising=False)
        yield fake


def run(*arguments: str) -> int:
    return cli.main(["adapters", *arguments])


def test_list_is_a_table(fake: ServerThread, capsys: pytest.CaptureFixture[str]) -> None:
    fake.routes.cards["later"] = card("later", "hf://team/later", state="known", pinned=True)

    assert run("list") == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        *("NAME", "STATE", "TIER", "RANK", "SIZE", "PINNED", "RUNNING", "VERSION", "SOURCE"),
    ]
    digest = fake.routes.cards["sql"]["digest"][:12]
    assert lines[1].split() == [
        *("sql", "ready", "device", "16", "1.2", "MB", "no", "0", digest, "/adapters/sql"),
    ]
    assert lines[3].split() == ["later", "known", "-", "-", "-", "yes", "0", "-", "hf://team/later"]
    assert (
        len({line.index(word) for line, word in zip(lines[:2], ("TIER", "device"), strict=True)})
        == 1
    )


def test_list_of_nothing_says_so(fake: ServerThread, capsys: pytest.CaptureFixture[str]) -> None:
    fake.routes.cards.clear()

    assert run("list") == 0
    assert capsys.readouterr().out == "the server has no adapters\n"


def test_list_as_json_is_the_cards(fake: ServerThread, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--json") == 0

    cards = json.loads(capsys.readouterr().out)
    assert [card["id"] for card in cards] == ["sql", "pirate"]


def test_show_says_all_that_is_known(
    fake: ServerThread, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("show", "sql") == 0

    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["source"] == "/adapters/sql"
    assert shown["target_modules"] == "q_proj, v_proj"
    assert shown["load_ms"] == "fetch 0, read 12.5, check 3, prepare 40"
    assert "error" not in shown


def test_load_unload_and_pin(fake: ServerThread, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("load", "team/new", "/adapters/new", "--pinned") == 0
    assert fake.routes.cards["team/new"]["pinned"] is True
    assert run("pin", "team/new", "--off") == 0
    assert fake.routes.cards["team/new"]["pinned"] is False
    assert run("pin", "team/new") == 0
    assert fake.routes.cards["team/new"]["pinned"] is True
    assert run("unload", "team/new") == 0
    assert "team/new" not in fake.routes.cards

    digest = capsys.readouterr().out.splitlines()[0].split()[-1]
    assert len(digest) == 12


def test_load_tells_in_one_line_what_came_of_it(
    fake: ServerThread, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("load", "new", "/adapters/new", "--no-preload") == 0

    assert capsys.readouterr().out == "new: known\n"


def test_load_of_a_taken_name_points_to_the_flag(
    fake: ServerThread, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("load", "sql", "/adapters/new") == 1
    assert "there is an adapter 'sql' already; --replace" in capsys.readouterr().err
    assert run("load", "sql", "/adapters/new", "--replace", "--json") == 0
    assert json.loads(capsys.readouterr().out)["source"] == "/adapters/new"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("show", "nobody"), "'nobody' does not exist. (status 404); `lorry adapters list` shows"),
        (("load", "new", BROKEN), f"{BROKEN!r} is not a PEFT folder (status 400)\n"),
        (("load", "new", MISSING), f"nothing is at {MISSING!r} (status 404)\n"),
        (("unload", "../models"), "'../models' is not the name of an adapter"),
    ],
)
def test_an_error_is_one_line(
    fake: ServerThread,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    assert run(*arguments) in (1, 2)

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("lorry adapters: ")
    assert sentence in captured.err
    assert captured.err.count("\n") == 1


def test_a_missing_key_is_named_and_may_come_from_flag_or_variable(
    fake: ServerThread, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.key = "k1"

    assert run("list") == 1
    assert "the key is --api-key, or LORRY_API_KEY" in capsys.readouterr().err
    assert run("list", "--api-key", "k1") == 0
    monkeypatch.setenv("LORRY_API_KEY", "k1")
    assert run("list") == 0


def test_a_server_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{placeholder.getsockname()[1]}"
        assert run("list", "--url", url) == 1

    shown = capsys.readouterr().err
    assert url in shown
    assert "its address is --url, or LORRY_BASE_URL" in shown


@pytest.mark.parametrize(
    "arguments", [(), ("sing",), ("show",), ("list", "--colour"), ("list", "--timeout", "soon")]
)
def test_wrong_usage_is_two(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(*arguments)

    assert caught.value.code == 2
    assert "usage: lorry adapters" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [("list", "--timeout", "-1"), ("list", "--url", "ftp://x"), ("show", "..")]
)
def test_a_wrong_value_is_two(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert capsys.readouterr().err.startswith("lorry adapters: ")


def test_what_a_server_says_cannot_steer_the_terminal(
    fake: ServerThread, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.routes.cards["sql"]["source"] = "/adapters/\x1b[2Jsql\nforged line"

    assert run("list") == 0

    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert len(shown.splitlines()) == 3


def test_check_is_the_servers_and_gets_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[list[str]] = []

    def check(argv: list[str]) -> int:
        received.append(argv)
        return 3

    package = ModuleType("lorry_server.adapters.check_cli")
    monkeypatch.setattr(package, "main", check, raising=False)
    monkeypatch.setitem(sys.modules, "lorry_server.adapters.check_cli", package)

    assert run("check", "some/folder", "--json", "--help") == 3
    assert received == [["some/folder", "--json", "--help"]]


@pytest.mark.parametrize("missing", ["lorry_server", "torch"])
def test_check_without_the_server_names_the_extra(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check(argv: list[str]) -> int:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    package = ModuleType("lorry_server.adapters.check_cli")
    monkeypatch.setattr(package, "main", check, raising=False)
    monkeypatch.setitem(sys.modules, "lorry_server.adapters.check_cli", package)

    assert run("check", "some/folder") == 1
    shown = capsys.readouterr().err
    assert f'lorry adapters check needs {missing}: pip install "lorry[server]"' in shown


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("--help")

    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("list", "show", "load", "unload", "pin", "check"))


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_499, "999.5 kB"),
        (999_500, "1.0 MB"),
        (1_234_567, "1.2 MB"),
        (2 * 10**9, "2.0 GB"),
        (3 * 10**12, "3.0 TB"),
    ],
)
def test_sizes_are_short(num_bytes: int, text: str) -> None:
    assert size(num_bytes) == text
