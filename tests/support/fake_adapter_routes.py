"""A script of `FakeLLMServer` that answers `/v1/adapters` as the server does, from a dict."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any
from urllib.parse import unquote

from tests.support.fake_llm_server import ReceivedRequest, Reply

PATH = "/v1/adapters"
BROKEN = "/adapters/broken"  # a source that cannot be loaded
MISSING = "/adapters/missing"


class FakeAdapterRoutes:
    """`cards` is what is served, by name; a test may change it between two requests."""

    def __init__(self, **sources: str) -> None:
        self.cards = {name: card(name, source) for name, source in sources.items()}

    async def __call__(self, request: ReceivedRequest, reply: Reply) -> None:
        if request.path == PATH:
            await reply.json(200, {"object": "list", "data": list(self.cards.values())})
            return
        name = unquote(request.path.removeprefix(f"{PATH}/"))
        if request.method == "PUT":
            await self._put(name, request.json, reply)
        elif name not in self.cards:
            await reply.json(404, error(f"The adapter {name!r} does not exist.", "model_not_found"))
        elif request.method == "DELETE":
            del self.cards[name]
            await reply.json(200, {"id": name, "object": "adapter", "deleted": True})
        else:
            await reply.json(200, self.cards[name])

    async def _put(self, name: str, wanted: dict[str, Any], reply: Reply) -> None:
        if wanted["source"] == BROKEN:
            await reply.json(400, error(f"{BROKEN!r} is not a PEFT folder", "adapter_load_failed"))
            return
        if wanted["source"] == MISSING:
            await reply.json(404, error(f"nothing is at {MISSING!r}", "adapter_not_found"))
            return
        status = 200 if name in self.cards else 201
        state = "ready" if wanted["preload"] else "known"
        self.cards[name] = card(name, wanted["source"], pinned=wanted["pinned"], state=state)
        await reply.json(status, self.cards[name])


def card(name: str, source: str, **fields: Any) -> dict[str, Any]:
    is_loaded = fields.get("state", "ready") == "ready"
    loaded = {
        "digest": blake2b(source.encode(), digest_size=16).hexdigest(),
        "tier": "device",
        "num_bytes": 1_234_567,
        "rank": 16,
        "alpha": 32.0,
        "target_modules": ["q_proj", "v_proj"],
        "load_ms": {"fetch": 0.0, "read": 12.5, "check": 3.0, "prepare": 40.0},
    }
    return {
        "id": name,
        "object": "adapter",
        "source": source,
        "state": "ready",
        **(loaded if is_loaded else {}),
        **fields,
    }


def error(message: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": code}}
