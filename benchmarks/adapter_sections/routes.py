"""`/v1/adapters` of a running server, for callers that wait."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

TIMEOUT_S = 300.0


def put_adapter(base_url: str, name: str, source: str) -> dict[str, Any]:
    """Load `source` under `name`; return its card. Raises RuntimeError with the server's words."""
    return _call(base_url, "PUT", name, {"source": source})


def delete_adapter(base_url: str, name: str) -> None:
    _call(base_url, "DELETE", name, None)


def adapter_card(base_url: str, name: str) -> dict[str, Any]:
    return _call(base_url, "GET", name, None)


def _call(base_url: str, method: str, name: str, body: object) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{base_url}/v1/adapters/{urllib.parse.quote(name)}",
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
        method=method,
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            card: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as exc:
        raise RuntimeError(f"{method} of {name}: {exc.code} {exc.read()[:300]!r}") from exc
    return card
