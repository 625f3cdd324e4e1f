"""Asks a server for its facts: `/info` of lorry and LoRAX, `/version` of vLLM."""

from __future__ import annotations

import msgspec

from lorry_loadtest.endpoint import Endpoint
from lorry_loadtest.http_get import GetFailed, http_get
from lorry_loadtest.server_facts import ServerFacts

_TIMEOUT_S = 5.0


class _Info(msgspec.Struct, frozen=True):
    version: str | None = None
    sha: str | None = None
    model_dtype: str | None = None
    model_device_type: str | None = None
    quantization: str | None = None


def ask_server(endpoint: Endpoint, *, api_key: str | None) -> ServerFacts:
    """By the first of the two that answers with facts; empty ones when neither does."""
    for path in ("/info", "/version"):
        try:
            body = http_get(endpoint, path, api_key=api_key, timeout_s=_TIMEOUT_S)
            info = msgspec.json.decode(body, type=_Info)
        except (GetFailed, msgspec.MsgspecError):
            continue
        return ServerFacts(
            version=info.version or "",
            commit=info.sha or "",
            dtype=info.model_dtype or "",
            device=info.model_device_type or "",
            quantization=info.quantization or "",
        )
    return ServerFacts()
