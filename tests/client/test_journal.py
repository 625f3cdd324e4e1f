"""A batch that was interrupted goes on where it was."""

from __future__ import annotations

import asyncio
import json
from array import array
from collections import Counter
from pathlib import Path

import msgspec
import pytest

import lorry
from lorry.batch.generation_json import decode_generation, encode_generation
from lorry.batch.journal import Journal, item_key
from tests.support.fake_llm_server import (
    FakeLLMServer,
    ReceivedRequest,
    Reply,
    completion,
    usage_chunk,
)

PROMPTS = [str(number) for number in range(6)]


class Counting:
    """Answers, and fails once for each prompt in `failing`."""

    def __init__(self, *failing: str) -> None:
        self.failing = set(failing)
        self.asked: Counter[str] = Counter()

    async def __call__(self, request: ReceivedRequest, reply: Reply) -> None:
        prompt = request.json.get("prompt") or request.json["messages"][0]["content"]
        prompt = str(prompt)
        self.asked[prompt] += 1
        if prompt in self.failing:
            self.failing.discard(prompt)
            await reply.json(500, {"error": {"message": "broken", "type": "t"}})
        elif request.json.get("stream"):
            token = completion(f"<{prompt}>", token_ids=[7, 8], finish_reason="length")
            await reply.stream(token, usage_chunk(3, 2))
        else:
            usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
            answer = completion(f"<{prompt}>", finish_reason="length", usage=usage, system="fp_1")
            await reply.json(200, answer)


async def test_a_rerun_takes_finished_items_from_the_journal(tmp_path: Path) -> None:
    script, path = Counting(), tmp_path / "run.jsonl"
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        first = await client.map(PROMPTS, journal=path, token_times=True)
        again = client.map(PROMPTS, journal=path, token_times=True)
        second = await again

    assert set(script.asked.values()) == {1}
    assert second == first
    assert first[0].usage == lorry.Usage(3, 2)
    assert first[0].timing.token_ns == second[0].timing.token_ns != None  # noqa: E711
    assert (again.stats().num_done, again.stats().num_from_journal) == (0, 6)
    assert all(row["from_journal"] for row in again.to_records())


async def test_failures_are_tried_again(tmp_path: Path) -> None:
    script, path = Counting("1", "4"), tmp_path / "run.jsonl"
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        run = client.map(PROMPTS, journal=path, on_error="skip")
        assert len(await run) == 4
        results = await client.map(PROMPTS, journal=path)

    assert [result.text for result in results] == [f"<{i}>" for i in range(6)]
    assert script.asked == {"0": 1, "1": 2, "2": 1, "3": 1, "4": 2, "5": 1}
    failures = [line for line in path.read_text().splitlines() if "ServerError" in line]
    assert sorted(json.loads(line)["index"] for line in failures) == [1, 4]


async def test_what_finished_before_an_interruption_is_kept(tmp_path: Path) -> None:
    script, path = Counting(), tmp_path / "run.jsonl"
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        async with client.map(PROMPTS, journal=path, concurrency=1, window=0) as run:
            assert (await anext(run)).text == "<0>"
        num_before = len(run.results)
        await client.map(PROMPTS, journal=path)

    assert num_before < 6
    assert [script.asked[p] for p in PROMPTS[:num_before]] == [1] * num_before
    assert set(script.asked) == set(PROMPTS)


async def test_a_changed_input_is_not_mistaken_for_a_finished_one(tmp_path: Path) -> None:
    script, path = Counting(), tmp_path / "run.jsonl"
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        await client.map(["a", "b"], journal=path)
        await client.map(["b", "a"], journal=path)
        await client.map(["a", "b"], journal=path, max_tokens=3)
        await client.map(["a", "b"], journal=path, adapter="pirate")
        before = dict(script.asked)
        await client.map(["a", "b"], journal=path)
        await client.map(["b", "a"], journal=path)

    assert before == script.asked == {"a": 4, "b": 4}


async def test_what_the_client_does_by_default_is_part_of_the_key(tmp_path: Path) -> None:
    script, path = Counting(), tmp_path / "run.jsonl"
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        careful = client.with_options(temperature=0.0, adapter="pirate")
        await client.map(["a"], journal=path)
        run = careful.map(["a"], journal=path)
        await run
        await careful.map(["a"], journal=path)

    assert script.asked == {"a": 2}
    assert list(run.stats().by_adapter) == ["pirate"]


def test_the_key_is_of_what_the_answer_depends_on() -> None:
    def key(index: int = 0, prompt: object = "a", **options: object) -> str:
        return item_key(index, lorry.Request(prompt), options)  # type: ignore[arg-type]  # any prompt

    chat = lorry.Request(messages=[{"role": "user", "content": "a"}])
    assert key() == key(deadline=3, tag="x", request_id="r", timeout=2.0, token_times=True)
    assert key(stop=["a"], top_p=0.5) == key(top_p=0.5, stop=("a",))
    assert key(prompt=[1, 2]) == key(prompt=range(1, 3))
    others = [
        key(),
        key(1),
        key(prompt="b"),
        key(prompt=[97]),
        key(max_tokens=1),
        key(adapter="a"),
        key(extra_body={"x": 1}),
        item_key(0, chat, {}),
    ]
    assert len(set(others)) == len(others)


async def test_a_torn_last_line_is_dropped_and_generated_again(tmp_path: Path) -> None:
    script, path = Counting(), tmp_path / "run.jsonl"
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        await client.map(PROMPTS, journal=path, concurrency=1)
        whole = path.read_bytes()
        last_line = len(whole.splitlines(keepends=True)[-1])
        for cut in (1, 2, last_line // 2, last_line - 1, last_line):
            path.write_bytes(whole[:-cut])
            results = await client.map(PROMPTS, journal=path)
            assert [result.text for result in results] == [f"<{i}>" for i in range(6)]
            assert len(path.read_bytes().splitlines()) == 7

    # cut by its newline alone, the last line was still whole
    assert script.asked["5"] == 5
    assert script.asked["4"] == 1


async def test_a_journal_that_was_cut_in_its_first_line_begins_anew(tmp_path: Path) -> None:
    script, path = Counting(), tmp_path / "run.jsonl"
    path.write_bytes(b'{"lorry_jou')
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        await client.map(["a"], journal=path)

    assert len(path.read_bytes().splitlines()) == 2


async def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("shopping list\n")

    with pytest.raises(lorry.ConfigError, match=r"notes.txt is not a journal"):
        await lorry.AsyncClient().map(["a"], journal=path)

    assert path.read_text() == "shopping list\n"


async def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    script, path = Counting(), tmp_path / "run.jsonl"
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        await client.map(["a", "b"], journal=path)
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(lines[0] + b"{gibberish}\n" + lines[2])

        with pytest.raises(lorry.ConfigError, match="line 2 is damaged"):
            await client.map(["a", "b"], journal=path)


async def test_two_runs_do_not_write_one_journal(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    held = Journal(path)

    with pytest.raises(lorry.ConfigError, match="in use by another run"):
        await lorry.AsyncClient().map(["a"], journal=path)

    held.close()
    assert await lorry.AsyncClient().map([], journal=path) == []


async def test_tags_come_from_the_rerun_and_conversations_are_kept_too(tmp_path: Path) -> None:
    script, path = Counting(), tmp_path / "run.jsonl"

    def items(tag: object) -> list[lorry.Request]:
        return [lorry.Request("p", tag=tag)]

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        first = await client.map(items(object()), journal=path)
        second = await client.map(items("tag"), journal=path)

    assert first[0].text == second[0].text
    assert second[0].tag == "tag"
    assert second[0].extra == first[0].extra == {"system": "fp_1"}


def test_every_field_of_a_generation_survives_the_journal() -> None:
    stamps = array("q", [5_000_000_000, 5_000_000_007])
    timing = lorry.Timing(
        created_ns=1,
        intended_ns=0,
        attempts=(lorry.AttemptTiming(2, 3, 4, True), lorry.AttemptTiming(5)),
        token_ns=stamps,
        num_tokens=2,
    )
    alternatives = (("a", -0.5), ("\u2028\U0001f600", -1.5))
    generation = lorry.Generation(
        text="a\u2028\U0001f600",
        finish_reason="stop",
        usage=lorry.Usage(1, 2, cached_tokens=1, source="counted"),
        timing=timing,
        request_id="r",
        endpoint="http://x",
        model="m",
        adapter="pirate",
        token_ids=(1, 2),
        prompt_token_ids=(3,),
        tokens=(lorry.Token("a", 0, stamps[0], 1, -0.5, alternatives), lorry.Token("b", 1, 9)),
        stop_reason=7,
        seed=2**63,
        attempts=2,
        server=lorry.ServerTiming("r", "pirate", 1.5, 2.0, 3.0, 1, 4, 2, 0),
        extra={"system_fingerprint": {"x": [1, None]}},
    )

    assert decode_generation(encode_generation(generation)) == generation
    assert (
        decode_generation(encode_generation(msgspec.structs.replace(generation, tag=print)))
        == generation
    )


async def test_a_line_is_in_the_file_as_soon_as_its_item_is_done(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    may_end = asyncio.Event()
    num_lines = []

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if request.json["prompt"] == "slow":
            await may_end.wait()
        await reply.json(200, completion("x", finish_reason="stop"))

    def look(progress: lorry.Progress) -> None:
        num_lines.append(len(path.read_bytes().splitlines()))
        may_end.set()

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        await client.map(["slow", "fast"], journal=path, progress=look)

    assert num_lines == [2, 3]
