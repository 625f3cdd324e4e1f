"""A whole server on a random tiny model: what `lorry serve --model folder` wires, on a free port."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from lorry_server.build import build_server
from lorry_server.config import read_config
from lorry_server.http.app import create_app
from lorry_server.http.settings import HttpSettings
from lorry_server.metrics import Metrics
from tests.support.live_server import live_server
from tests.support.tiny_model import write_tiny_model


@asynccontextmanager
async def tiny_server(folder: Path, *flags: str) -> AsyncIterator[str]:
    """Write a model into `folder` and serve it with `flags` of `lorry serve`; yield the base URL."""
    model = str(write_tiny_model(folder))
    config = read_config(["--model", model, "--quantization", "none", *flags])
    built = build_server(config, progress=print)
    name = built.service.info.model_id
    app = create_app(
        built.service,
        tokenizer=built.tokenizer,
        chat_template=built.chat_template,
        settings=HttpSettings(served_model_name=name),
        metrics=Metrics(built.service, model_name=name),
    )
    built.service.start()
    try:
        async with live_server(app) as url:
            yield url
    finally:
        await built.service.stop()
