"""Every snippet of the client's README runs."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import lorry
from tests.support.fake_adapter_routes import PATH, FakeAdapterRoutes
from tests.support.fake_llm_server import (
    FakeLLMServer,
    ReceivedRequest,
    Reply,
    chat_answer,
    chat_chunk,
    completion,
)

README = Path(__file__).parents[2] / "client" / "README.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


adapter_routes = FakeAdapterRoutes()


async def answer(request: ReceivedRequest, reply: Reply) -> None:
    if request.path.startswith(PATH):
        await adapter_routes(request, reply)
        return
    if request.method == "GET":
        await reply.json(404, {"error": {"message": "no such route"}})
        return
    is_chat = request.path.endswith("/chat/completions")
    if request.json.get("stream"):
        chunk = chat_chunk({"content": "Arr"}) if is_chat else completion("Arr")
        end = (
            chat_chunk({}, finish_reason="stop")
            if is_chat
            else completion("", finish_reason="stop")
        )
        await reply.stream(chunk, end)
    else:
        whole = chat_answer("Arr") if is_chat else completion("Arr", finish_reason="stop")
        await reply.json(200, whole)


async def run(snippet: str, names: dict[str, Any]) -> dict[str, Any]:
    code = compile(snippet, str(README), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    done = eval(code, names)
    if inspect.isawaitable(done):
        await done
    return names


@pytest.mark.parametrize("snippet", SNIPPETS)
async def test_snippet_runs(snippet: str) -> None:
    async with FakeLLMServer(answer) as server, lorry.AsyncClient(server.url) as client:
        snippet = snippet.replace("http://127.0.0.1:8000", server.url)
        names = await run(snippet, {"lorry": lorry, "client": client, "client_url": server.url})

    assert server.requests
    assert len(names.get("topics", range(200))) == 200
