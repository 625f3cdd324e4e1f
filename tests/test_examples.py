"""The examples, run as a person runs them, against a server with a tiny model."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from tests.support.tiny_server import tiny_server

EXAMPLES = Path(__file__).parents[1] / "examples"


async def run_example(name: str, *arguments: str) -> tuple[int, str]:
    """Return the exit status and all that was printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, EXAMPLES / name, *arguments, stdout=PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_short_conversations_end_before_the_long_one(tmp_path: Path) -> None:
    async with tiny_server(tmp_path) as url:
        status, output = await run_example("gather_max_tokens.py", "--base-url", url)

    assert status == 0, output
    finished = re.findall(r"(\w+) +is done after", output)
    assert sorted(finished[:2]) == sorted(finished[3:5]) == ["Ben", "Cleo"]
    assert [finished[2], finished[5]] == ["Ada", "Ada"]
    pictures = re.findall(r"^  (\w+) +(\d+) tokens \|(1+2+3+) *\|", output, flags=re.MULTILINE)
    assert [(name, limit) for name, limit, _ in pictures if name == "Ada"] == [("Ada", "100")] * 2


async def test_both_ways_of_sending_a_batch_agree(tmp_path: Path) -> None:
    async with tiny_server(tmp_path) as url:
        status, output = await run_example("topic_batch.py", "--base-url", url)

    assert status == 0, output
    assert "Both ways gave the same answers." in output
    assert re.findall(r"^(\d{3}) ", output, flags=re.MULTILINE) == [
        str(number) for number in range(101, 113)
    ]


async def test_an_interrupted_batch_goes_on_where_it_was(tmp_path: Path) -> None:
    journal = str(tmp_path / "notes.jsonl")
    async with tiny_server(tmp_path) as url:
        first = await run_example(
            "resumable_batch.py", journal, "--base-url", url, "--stop-after", "10"
        )
        second = await run_example("resumable_batch.py", journal, "--base-url", url)

    assert first[0] == second[0] == 0, first[1] + second[1]
    assert "Stopped early; run me again." in first[1]
    counts = re.search(r"(\d+) from the journal, (\d+) from the server, 0 failed", second[1])
    assert counts is not None, second[1]
    assert int(counts[1]) >= 10
    assert int(counts[1]) + int(counts[2]) == 40
    assert len(re.findall(r"^The \w+ .*\.", second[1], flags=re.MULTILINE)) == 40


async def test_a_study_of_concurrency_ends_in_a_table_and_a_picture(tmp_path: Path) -> None:
    picture = tmp_path / "study.svg"
    async with tiny_server(tmp_path) as url:
        status, output = await run_example(
            "concurrency_study.py",
            *("--base-url", url, "--concurrency", "1", "4", "--max-tokens", "8"),
            *("--requests", "20", "--picture", str(picture)),
        )

    assert status == 0, output
    rows = re.findall(r"^base model, 8 tokens +(\d+) +20 +0 ", output, flags=re.MULTILINE)
    assert rows == ["1", "4"]
    assert "<polyline" in picture.read_text(encoding="utf-8")


async def test_example_without_a_server_says_how_to_start_one(tmp_path: Path) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        ended = await asyncio.gather(
            run_example("gather_max_tokens.py", "--base-url", url),
            run_example("topic_batch.py", "--base-url", url),
            run_example("concurrency_study.py", "--base-url", url),
            run_example("resumable_batch.py", str(tmp_path / "journal"), "--base-url", url),
        )

    assert ended == [(1, f"No server answers at {url}. Start one with: lorry serve\n")] * 4
