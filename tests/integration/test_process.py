"""`lorry serve` as a process: ready, drain on SIGTERM, and one clear line when it cannot start."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from tests.support.tiny_model import write_tiny_model

LORRY = str(Path(sys.executable).parent / "lorry")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "llama")


async def test_sigterm_finishes_what_was_accepted_and_exits_with_status_zero(folder: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        LORRY, "serve", "--port", "0", "--model", str(folder), "--kv-cache-memory", "8MiB",
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
        silent = asyncio.create_task(process.stderr.read())
        async with aiohttp.ClientSession() as session:
            body = {"model": "", "prompt": "x", "max_tokens": 600, "ignore_eos": True}
            async with session.post(
                f"{base_url}/v1/completions", json=body | {"stream": True}
            ) as r:
                await r.content.readline()  # the first token: the request runs
                process.send_signal(signal.SIGTERM)
                events = (await r.content.read()).decode().strip().split("\n\n")
            assert events[-1] == "data: [DONE]"
            chunks = [json.loads(event[6:]) for event in events[1:-1] if event.startswith("data: ")]
            assert chunks[-1]["choices"][0]["finish_reason"] == "length"
        assert await asyncio.wait_for(process.wait(), timeout=30) == 0
        assert b"Traceback" not in await silent
    finally:
        if process.returncode is None:
            process.kill()


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
            timeout=60,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            check=False,
        )

    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("lorry serve: ")
    assert all(word.format(**values) in last for word in words)
    assert "Traceback" not in done.stderr
