"""Other clients behind a pipe: a line of JSON in is a loop of calls, a line out what it took.

    peer_worker.py NAME

Runs under an interpreter that has the client and nothing of this repository. Ends when its standard
input does. The first line out says the versions, or what is missing.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from closed_loop import Call, Sample, closed_loop, gathered, raise_file_limit

PROMPT = "The quick brown fox jumps over the lazy dog."


def main() -> None:
    name = sys.argv[1]
    # the libraries may print; answers keep the pipe for themselves
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    logging.disable(logging.CRITICAL)
    raise_file_limit()
    try:
        open_call = PEERS[name]()
    except (ImportError, RuntimeError) as error:
        answers.write(json.dumps({"missing": str(error)}) + "\n")
        return
    packages = ("openai", "httpx2", "httpx", "httpx-aiohttp", "aiohttp", "lorax-client")
    answers.write(json.dumps({"versions": _versions(packages)}) + "\n")
    for line in sys.stdin:
        sample = asyncio.run(measure(open_call, json.loads(line)))
        answers.write(json.dumps(None if sample is None else asdict(sample)) + "\n")


async def measure(open_call: Callable[[str], Any], work: dict[str, Any]) -> Sample | None:
    call, close = open_call(work.pop("url"))
    kind, limit_s = work.pop("kind"), work.pop("limit_s")
    try:
        async with asyncio.timeout(limit_s):
            return await (gathered if kind == "gathered" else closed_loop)(call, **work)
    except TimeoutError:
        return None
    finally:
        await close()


def openai_peer(make_http: Callable[[Any], Any]) -> Callable[[], Callable[[str], Any]]:
    def prepare() -> Callable[[str], Any]:
        import openai

        make_http(openai)  # a transport that is missing shows here

        def open_call(url: str) -> tuple[Call, Callable[[], Any]]:
            client = openai.AsyncOpenAI(
                base_url=f"{url}/v1",
                api_key="none",
                max_retries=0,
                timeout=600,
                http_client=make_http(openai),
            )

            async def call(stream: bool, num_tokens: int) -> int:
                if not stream:
                    await client.completions.create(model="", prompt=PROMPT, max_tokens=num_tokens)
                    return 1
                chunks = await client.completions.create(
                    model="", prompt=PROMPT, max_tokens=num_tokens, stream=True
                )
                return len([chunk async for chunk in chunks])

            return call, client.close

        return open_call

    return prepare


def lorax_peer() -> Callable[[str], Any]:
    import lorax

    def open_call(url: str) -> tuple[Call, Callable[[], Any]]:
        client = lorax.AsyncClient(url, timeout=600)

        async def call(stream: bool, num_tokens: int) -> int:
            if not stream:
                await client.generate(PROMPT, max_new_tokens=num_tokens)
                return 1
            parts = client.generate_stream(PROMPT, max_new_tokens=num_tokens)
            return len([part async for part in parts])

        async def close() -> None:
            """It keeps nothing open: each call has a session of its own."""

        return call, close

    return open_call


def _aiohttp_transport(openai: Any) -> Any:
    return openai.DefaultAioHttpClient()  # raises RuntimeError without httpx-aiohttp


def _default_transport(openai: Any) -> None:
    """openai makes its own."""


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


PEERS = {
    "openai": openai_peer(_default_transport),
    "openai-aiohttp": openai_peer(_aiohttp_transport),
    "lorax-client": lorax_peer,
}


if __name__ == "__main__":
    main()
