"""`lorry serve` as a process: ready, drain on SIGTERM, and one clear line when it cannot start."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from tests.support.tiny_model import write_tiny_model

LORRY = str(Path(sys.executable).parent / "lorry")
# One sequence after the other: half a minute at least.
ENDLESS = {"n": 100, "max_tokens": 600}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "llama")


@asynccontextmanager
async def serving(folder: Path, *flags: str) -> AsyncIterator[tuple[Process, str]]:
    """A server and its address. When the block is left it has ended in order, by itself."""
    process = await asyncio.create_subprocess_exec(
        LORRY, "serve", "--port", "0", "--model", str(folder), "--kv-cache-memory", "8MiB", *flags,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        async for line in process.stderr:
            if b"ready on " in line:
                base_url = line.split(b"ready on ")[1].split()[0].decode()
                break
        else:
            raise AssertionError("the server ended before it was ready")
        said = asyncio.create_task(process.stderr.read())
        yield process, base_url
        assert await asyncio.wait_for(process.wait(), timeout=30) == 0
        assert b"draining" in await said
        assert b"Traceback" not in await said
    finally:
        if process.returncode is None:
            process.kill()


@asynccontextmanager
async def streaming(base_url: str, **body: object) -> AsyncIterator[aiohttp.StreamReader]:
    """The events of a completion, of which the first line has come: the request runs."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{base_url}/v1/completions",
            json={"model": "", "prompt": "x", "ignore_eos": True, "stream": True} | body,
        ) as response,
    ):
        await response.content.readline()
        yield response.content


async def listens(base_url: str) -> bool:
    address = urlsplit(base_url)
    try:
        _, writer = await asyncio.open_connection(address.hostname, address.port)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


async def test_sigterm_finishes_what_was_accepted_and_exits_with_status_zero(folder: Path) -> None:
    async with (
        serving(folder) as (process, base_url),
        streaming(base_url, max_tokens=600) as stream,
    ):
        process.send_signal(signal.SIGTERM)
        events = (await stream.read()).decode().strip().split("\n\n")

    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(event[6:]) for event in events[1:-1] if event.startswith("data: ")]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"


async def test_what_outlasts_the_drain_is_ended_with_an_error_that_says_so(folder: Path) -> None:
    async with (
        serving(folder, "--max-num-seqs", "1", "--drain-timeout", "0") as (process, base_url),
        streaming(base_url, **ENDLESS) as stream,
    ):
        process.send_signal(signal.SIGTERM)
        last = (await stream.read()).decode().strip().split("\n\n")[-1]

    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "ended_by_server"


async def test_a_second_signal_ends_what_the_first_one_let_finish(folder: Path) -> None:
    async with (
        serving(folder, "--max-num-seqs", "1", "--drain-timeout", "3600") as (process, base_url),
        streaming(base_url, **ENDLESS) as stream,
    ):
        process.send_signal(signal.SIGTERM)
        while await listens(base_url):  # noqa: ASYNC110 - another process closes it
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        with suppress(aiohttp.ClientPayloadError):  # it may be cut before the error is sent
            assert b"[DONE]" not in await stream.read()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model", "{tmp}/nothing-here"], ["nothing-here"]),
        (["--model", "{model}", "--adapter", "sql={tmp}"], ["adapter_config.json"]),
        (["--model", "{model}", "--kv-cache-memory", "10"], ["--kv-cache-memory", "10"]),
        (["--port", "{taken}"], ["cannot listen", "{taken}"]),
    ],
)
def test_what_cannot_start_says_why_in_one_line(
    folder: Path, tmp_path: Path, flags: list[str], words: list[str]
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        values = {"tmp": tmp_path, "model": folder, "taken": listener.getsockname()[1]}
        port = [] if "--port" in flags else ["--port", "0"]
        done = subprocess.run(
            [LORRY, "serve", *port, *(flag.format(**values) for flag in flags)],
            capture_output=True,
            text=True,
            timeout=200,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            check=False,
        )

    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("lorry serve: ")
    assert all(word.format(**values) in last for word in words)
    assert "Traceback" not in done.stderr
