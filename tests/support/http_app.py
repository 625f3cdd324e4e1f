"""The HTTP application over a scripted engine and a tokenizer of one token a byte."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import httpx
from starlette.applications import Starlette

from lorry_server.adapters.library import AdapterLibrary
from lorry_server.http.app import create_app
from lorry_server.http.settings import HttpSettings
from lorry_server.metrics import Metrics
from lorry_server.text.chat_template import ChatTemplate
from lorry_server.text.tokenizer import Tokenizer
from tests.support.chat_templates import CHATML
from tests.support.fake_engine import FakeEngine
from tests.support.fake_library import FakeAdapters, fake_library
from tests.support.small_tokenizers import byte_level_tokenizer

EOS = 2  # <|im_end|>
MODEL = "tiny"


@cache
def byte_tokenizer() -> Tokenizer:
    """Three control tokens, then one token for each byte: no merges."""
    return Tokenizer(byte_level_tokenizer(size=259), eos_token_ids=(EOS,))


@cache
def chat_template() -> ChatTemplate:
    return ChatTemplate(CHATML)


def ids(text: str) -> list[int]:
    return byte_tokenizer().encode(text)


def fake_app(
    engine: FakeEngine,
    library: AdapterLibrary | None = None,
    *,
    with_template: bool = True,
    **settings: Any,
) -> Starlette:
    """Without `library` there is one with the engine's adapters and no source for others."""
    library = library or fake_library(engine)
    return create_app(
        engine,
        library=library,
        tokenizer=byte_tokenizer(),
        chat_template=chat_template() if with_template else None,
        settings=HttpSettings(**({"served_model_name": MODEL} | settings)),
        metrics=Metrics(engine, library, model_name=MODEL),
    )


def app_with(adapters: FakeAdapters, engine: FakeEngine | None = None, **options: Any) -> Starlette:
    """The application over a library that loads `adapters`, whose options may be among others."""
    engine = engine or FakeEngine(ids("hello"))
    library_options = {
        name: options.pop(name)
        for name in ("load_timeout_s", "clock", "host_memory_bytes")
        if name in options
    }
    return fake_app(engine, fake_library(engine, adapters, **library_options), **options)


@asynccontextmanager
async def in_process(app: Any, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client that calls the application directly; answers come whole, also streamed ones."""
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", **options) as client:
        yield client


def events(body: str) -> list[Any]:
    """Return the data of each event: JSON decoded, `[DONE]` as it is, comments left out."""
    blocks = [block for block in body.split("\n\n") if block and not block.startswith(":")]
    data = [block.removeprefix("data: ") for block in blocks]
    return [item if item == "[DONE]" else json.loads(item) for item in data]
