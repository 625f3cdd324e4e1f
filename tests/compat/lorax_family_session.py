"""A session with `lorax-client` or `text-generation`, run by the interpreter that has them.

Usage: `python lorax_family_session.py lorax|text_generation`. Reads one JSON object a line,
`{"url": ..., "call": "generate" | "generate_stream" | ..., "arguments": {...}}`, and answers each
with one line: `{"result": ...}` or `{"error": "ClassName", "message": "..."}`. A call that begins
with `async.` is made with the package's async client. It imports nothing of ours.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from typing import Any


def main() -> None:
    clients = importlib.import_module(sys.argv[1])
    for line in sys.stdin:
        wanted = json.loads(line)
        try:
            answer = {"result": run(clients, **wanted)}
        # whatever the package raises is what is being asked about
        except Exception as exc:
            answer = {"error": type(exc).__name__, "message": str(exc)}
        print(json.dumps(answer), flush=True)


def run(clients: Any, url: str, call: str, arguments: dict[str, Any]) -> Any:
    prefix, _, method = call.rpartition(".")
    if prefix == "async":
        return asyncio.run(run_async(clients, url, method, arguments))
    answer = getattr(clients.Client(url), method)(**arguments)
    if method == "generate_stream":
        return [plain(event) for event in answer]
    return plain(answer)


async def run_async(clients: Any, url: str, method: str, arguments: dict[str, Any]) -> Any:
    answer = getattr(clients.AsyncClient(url), method)(**arguments)
    if method == "generate_stream":
        return [plain(event) async for event in answer]
    return plain(await answer)


def plain(model: Any) -> Any:
    return json.loads(model.model_dump_json())


if __name__ == "__main__":
    main()
