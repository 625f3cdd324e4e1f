"""`QueryNumber`: a whole number in a URL's query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request

from lorry_server.errors import RequestError
from lorry_server.http.parsing import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryNumber:
    """One that may be left out; `meaning` is for the OpenAPI document."""

    name: str
    meaning: str
    least: int
    most: int

    def read(self, request: Request) -> int | None:
        """Return the number, None where it is left out. Raises RequestError for what is none."""
        given = request.query_params.getlist(self.name)
        if not given:
            return None
        text = given[0]
        is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(self.most))
        if len(given) > 1 or not is_number or not self.least <= int(text) <= self.most:
            raise RequestError(
                f"`{self.name}` must be one whole number from {self.least} to {self.most}. "
                f"Given: {shown(text if len(given) == 1 else given)}",
                param=self.name,
                code="invalid_value",
            )
        return int(text)


def refuse_others(request: Request, numbers: Sequence[QueryNumber]) -> None:
    """Raise RequestError if the query has anything but `numbers`."""
    known = [number.name for number in numbers]
    for name in request.query_params:
        if name not in known:
            raise RequestError(
                f"unknown query parameter {shown(name)}; there are {', '.join(known)}",
                param=shown(name)[1:-1],
                code="unknown_parameter",
            )
