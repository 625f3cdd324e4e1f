"""Routes of LoRAX, TGI and vLLM for what this server does not do, refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from starlette.requests import Request

from lorry_server.errors import RequestError


@dataclass(frozen=True, slots=True)
class RefusedEndpoint:
    """`what` the route would do, in words that end the sentence of the error.

    404, as for any route that is not there, and not 501: some clients send again what was answered
    with 5xx, and proxies count it against the server.
    """

    what: str

    async def refuse(self, request: Request) -> NoReturn:
        raise RequestError(
            f"this route is not served: this server generates text, it does not {self.what}. "
            "GET /openapi.json lists what it does",
            code="unsupported_route",
            status=404,
            error_type="unsupported_route",
        )
