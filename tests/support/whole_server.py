"""The whole server on a tiny model: build, engine thread, HTTP on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from lorry_server.adapters.library import AdapterLibrary
from lorry_server.build import build_server
from lorry_server.config import read_config
from lorry_server.engine.engine import Engine
from lorry_server.engine.service import EngineService
from lorry_server.http.app import create_app
from lorry_server.http.settings import HttpSettings
from lorry_server.metrics import Metrics
from tests.support.live_server import live_server


@dataclass(frozen=True)
class WholeServer:
    """`progress` has the lines that the server logged while it was built."""

    base_url: str
    service: EngineService
    engine: Engine
    library: AdapterLibrary
    progress: list[str]


async def until(condition: Callable[[], bool]) -> None:
    """Give way to the loop until `condition` holds; the test's own time limit bounds it."""
    while not condition():  # noqa: ASYNC110 - the engine's thread sets no event for such things
        await asyncio.sleep(0)


@asynccontextmanager
async def whole_server(
    folder: Path, *flags: str, adapters: Mapping[str, Path] | None = None
) -> AsyncIterator[WholeServer]:
    """Serve `folder` with float32 weights and blocks of 16 tokens; more `flags` as on the line."""
    named = [f"--adapter={name}={path}" for name, path in (adapters or {}).items()]
    arguments = ["--model", str(folder), "--served-model-name", "tiny", "--block-size", "16"]
    arguments += ["--quantization", "none", "--kv-cache-memory", "4MiB", *named, *flags]
    progress: list[str] = []
    built = build_server(read_config(arguments), progress=progress.append)
    name = built.service.info.model_id
    app = create_app(
        built.service,
        library=built.library,
        tokenizer=built.tokenizer,
        chat_template=built.chat_template,
        settings=HttpSettings(served_model_name=name),
        metrics=Metrics(built.service, built.library, model_name=name),
    )
    built.service.start()
    try:
        async with live_server(app) as base_url:
            yield WholeServer(base_url, built.service, built.engine, built.library, progress)
    finally:
        built.library.close()
        await built.service.stop()
