"""Calls through `client.openai()` are counted, and told to the limit, as what they were."""

from __future__ import annotations

import contextlib
from typing import Any

import openai
import pytest

import lorry
from lorry.testing import Answer, FakeServer


class Outcomes(lorry.Limit):
    """A limit that notes how calls ended."""

    def __init__(self) -> None:
        super().__init__(8)
        self.seen: list[str] = []

    async def acquire(self, *, adapter: str | None, num_tokens: int) -> Any:
        return Noting(await super().acquire(adapter=adapter, num_tokens=num_tokens), self.seen)


class Noting:
    def __init__(self, permit: lorry.Permit, seen: list[str]) -> None:
        self._permit = permit
        self._seen = seen

    def release(self, *, outcome: lorry.ClientError | None, timing: lorry.Timing) -> None:
        self._seen.append(type(outcome).__name__)
        self._permit.release(outcome=outcome, timing=timing)


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Answer(text="a b"), "NoneType"),
        (Answer(text="a b", failure="cut", failure_after=1), "ConnectionLost"),
        (Answer(text="a b", failure="error", failure_after=1), "ServerStreamError"),
    ],
)
async def test_streams_are_counted_as_what_they_were(answer: Answer, outcome: str) -> None:
    limit = Outcomes()
    async with FakeServer(answer) as server, lorry.AsyncClient(server.url, limit=limit) as client:
        stream = await client.openai().completions.create(model="", prompt="Hi", stream=True)
        with contextlib.suppress(openai.OpenAIError):
            _ = [chunk async for chunk in stream]
        await stream.close()
        stats = client.stats()

    assert limit.seen == [outcome]
    assert stats.num_finished == (outcome == "NoneType")
    assert stats.num_failed == ({} if outcome == "NoneType" else {outcome: 1})
    assert stats.endpoints[0].num_failures == (outcome != "NoneType")


async def test_a_whole_answer_is_a_call_that_finished() -> None:
    limit = Outcomes()
    async with FakeServer() as server, lorry.AsyncClient(server.url, limit=limit) as client:
        await client.openai().completions.create(model="", prompt="Hi")
        stats = client.stats()

    assert limit.seen == ["NoneType"]
    assert (stats.num_finished, stats.num_cancelled, stats.num_failed) == (1, 0, {})
