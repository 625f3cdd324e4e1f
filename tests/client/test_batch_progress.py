"""What is shown of a run while it goes on."""

from __future__ import annotations

import io
import sys
from types import ModuleType
from typing import Any

import pytest

import lorry
from lorry.batch.progress import CallableDisplay, PlainBar, TqdmBar, open_display
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply, completion


async def answer(request: ReceivedRequest, reply: Reply) -> None:
    if request.json["prompt"] == "bad":
        await reply.json(400, {"error": {"message": "bad prompt", "type": "t"}})
    else:
        usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
        await reply.json(200, completion("x", finish_reason="stop", usage=usage))


def progress(num_done: int, *, total: int | None = 10, num_failed: int = 0) -> lorry.Progress:
    return lorry.Progress(
        num_done=num_done,
        total=total,
        num_failed=num_failed,
        num_from_journal=0,
        num_in_flight=1,
        num_tokens=50 * num_done,
        elapsed_s=0.5,
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_a_function_is_told_of_every_finished_item() -> None:
    told: list[lorry.Progress] = []
    async with FakeLLMServer(answer) as server, lorry.AsyncClient(server.url) as client:
        await client.map(["a", "bad", "b"], progress=told.append, on_error="skip", concurrency=1)

    assert [one.num_done for one in told] == [1, 2, 3]
    assert [one.num_failed for one in told] == [0, 1, 1]
    assert [one.num_tokens for one in told] == [5, 5, 10]
    assert {one.total for one in told} == {3}
    assert told[-1].tokens_per_s > 0


async def test_an_input_of_unknown_length_has_no_total() -> None:
    told: list[lorry.Progress] = []
    async with FakeLLMServer(answer) as server, lorry.AsyncClient(server.url) as client:
        await client.map((prompt for prompt in "ab"), progress=told.append)

    assert told[-1].total is None
    assert str(told[-1]).startswith("2 done, ")


async def test_a_function_that_raises_ends_the_run() -> None:
    def tell(progress: lorry.Progress) -> None:
        raise ZeroDivisionError("of the caller's own")

    async with FakeLLMServer(answer) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(ZeroDivisionError, match="of the caller's own"):
            await client.map(["a", "b"], progress=tell)


def test_the_plain_bar_writes_over_its_line_ten_times_a_second() -> None:
    stream, now = Terminal(), [0.0]
    bar = PlainBar(stream, lambda: now[0])
    for num_done in range(1, 10):
        bar.show(progress(num_done, num_failed=num_done // 5))
        now[0] += 0.04
    bar.close(progress(10, num_failed=1))

    drawn = stream.getvalue().split("\r")[1:]
    assert [line.split("]")[1].split(",")[0].strip() for line in drawn] == [
        *("1/10 done", "4/10 done", "7/10 done"),
        "10/10 done",
    ]
    assert drawn[0].startswith("[##......................] 1/10 done, 100 tok/s")
    assert drawn[-1].rstrip() == "[########################] 10/10 done, 1,000 tok/s, 1 failed"
    assert drawn[-1].endswith("\n")


def test_no_bar_is_shown_where_nobody_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)

    assert open_display(True) is None
    assert open_display(False) is None
    assert isinstance(open_display(print), CallableDisplay)


def test_without_tqdm_a_terminal_gets_the_plain_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)

    assert isinstance(open_display(True), PlainBar)


def test_a_notebook_gets_a_bar_though_it_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setitem(sys.modules, "ipykernel", ModuleType("ipykernel"))

    assert open_display(True) is not None


def test_tqdm_shows_total_rate_and_failures() -> None:
    tqdm = pytest.importorskip("tqdm.auto").tqdm
    stream = io.StringIO()

    def make(**options: Any) -> Any:
        return tqdm(**(options | {"file": stream, "ncols": 100, "dynamic_ncols": False}))

    bar = TqdmBar(make)
    for num_done in range(1, 11):
        bar.show(progress(num_done, num_failed=num_done // 9))
    bar.close(progress(10, num_failed=1))

    last = stream.getvalue().split("\r")[-1]
    assert "10/10" in last
    assert "tok/s=1,000" in last
    assert "failed=1" in last
