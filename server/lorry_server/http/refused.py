"""Routes of LoRAX, TGI and vLLM for what this server does not do, refused by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from starlette.requests import Request

from lorry_server.errors import RequestError

# 501 is what vLLM answers for what it does not implement, and what no client sends again.
NOT_IMPLEMENTED = 501


@dataclass(frozen=True, slots=True)
class RefusedEndpoint:
    """`what` the route would do, in words that end the sentence of the error."""

    what: str

    async def refuse(self, request: Request) -> NoReturn:
        raise RequestError(
            f"this server generates text; it does not {self.what}. GET /openapi.json lists what it does",
            code="unsupported_route",
            status=NOT_IMPLEMENTED,
            error_type="unsupported_route",
        )
