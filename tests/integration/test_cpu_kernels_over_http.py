"""Behind HTTP every rung of the ladder gives the same answers, with adapters as well as without."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from lorry_server.runner.compiled.rungs import available_rungs
from tests.support.kernel_tape import needs_kernels
from tests.support.tiny_adapters import UNLIKE, write_unlike_adapters
from tests.support.tiny_model import write_tiny_model
from tests.support.whole_server import whole_server

pytestmark = needs_kernels
ADAPTERS = ("all-r16", "mlp-r7-rslora", "head-r6")
PROMPTS = ("the thing", "the thing is a sound in the house " * 3, "a")
SAMPLING: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0, "logprobs": 2},
    {"temperature": 0.9, "seed": 5, "top_p": 0.9},
    {"temperature": 0.0, "frequency_penalty": 0.5, "n": 2},
)


async def answers(base_url: str) -> list[Any]:
    """Of every model to every prompt, all asked at once."""
    bodies = [
        {"model": model, "prompt": prompt, "max_tokens": 16, "ignore_eos": True} | sampling
        for sampling in SAMPLING
        for model in ("tiny", *ADAPTERS)
        for prompt in PROMPTS
    ]
    async with aiohttp.ClientSession(base_url) as session:
        return await asyncio.gather(*(choices(session, body) for body in bodies))


async def choices(session: aiohttp.ClientSession, body: dict[str, Any]) -> Any:
    async with session.post("/v1/completions", json=body) as response:
        assert response.status == 200, await response.text()
        return (await response.json())["choices"]


@pytest.mark.parametrize("quantization", ["int8", "int4"])
async def test_the_torch_rung_and_the_fastest_give_the_same_text(
    tmp_path: Path, quantization: str
) -> None:
    folder = write_tiny_model(tmp_path / "model")
    adapters = write_unlike_adapters(
        folder, tmp_path / "adapters", {name: UNLIKE[name] for name in ADAPTERS}
    )
    flags = ("--quantization", quantization)

    async with whole_server(folder, *flags, "--cpu-kernels", "torch", adapters=adapters) as server:
        assert not any("kernels on" in line for line in server.progress)
        expected = await answers(server.base_url)
    async with whole_server(folder, *flags, adapters=adapters) as server:
        assert f"computing with {available_rungs()[0]} kernels" in "\n".join(server.progress)
        given = await answers(server.base_url)

    assert given == expected
    assert len({str(answer) for answer in given}) > len(given) // 2
