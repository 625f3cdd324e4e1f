"""From training to an answer: a server that watches a folder serves what a run writes into it."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.finetuning import finetune, write_jsonl
from tests.support.tiny_model import write_tiny_model

LORRY = str(Path(sys.executable).parent / "lorry")


async def until_listed(base_url: str, name: str, state: str | None) -> dict[str, Any]:
    """Return the card of `name` when it is in `state`; None waits until there is no card."""
    async with aiohttp.ClientSession(base_url) as session:
        while True:
            async with session.get("/v1/adapters") as answer:
                cards = {card["id"]: card for card in (await answer.json())["data"]}
            if state is None and name not in cards:
                return {}
            if name in cards and cards[name]["state"] == state:
                return cards[name]
            await asyncio.sleep(0.05)


async def complete(base_url: str, name: str) -> str:
    body = {"model": name, "prompt": "The pump is", "max_tokens": 8, "temperature": 0}
    async with (
        aiohttp.ClientSession(base_url) as session,
        session.post("/v1/completions", json=body) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return str((await answer.json())["choices"][0]["text"])


async def test_checkpoints_and_the_finished_adapter_are_served_as_they_are_written(
    tmp_path: Path,
) -> None:
    model = write_tiny_model(tmp_path / "tiny")
    data = write_jsonl(tmp_path / "prices.jsonl")
    watched = tmp_path / "adapters"
    broken = watched / "broken"
    broken.mkdir(parents=True)
    (broken / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    (broken / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    process = await asyncio.create_subprocess_exec(
        LORRY, "serve", "--port", "0", "--model", str(model), "--kv-cache-memory", "8MiB",
        "--quantization", "none", "--cpu-kernels", "torch", "--watch", str(watched),
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
        flags = ("--steps", "30", "--save-every", "20", "--lr", "0.05")
        assert finetune(model, data, watched / "prices", *flags) == 0  # seconds; nobody waits

        checkpoint = await until_listed(base_url, "prices.step-20", "ready")
        finished = await until_listed(base_url, "prices", "ready")
        failed = await until_listed(base_url, "broken", "failed")
        assert checkpoint["digest"] != finished["digest"]
        assert "IA3" in failed["error"]
        assert await complete(base_url, "prices") != await complete(base_url, "tiny")

        shutil.rmtree(watched / "prices")
        await until_listed(base_url, "prices", None)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), timeout=30) == 0
        assert b"Traceback" not in await silent
    finally:
        if process.returncode is None:
            process.kill()
