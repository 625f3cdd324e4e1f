"""The OpenAPI document, made from the very types that parse requests and form answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from lorry._version import __version__
from lorry.types.errors import ErrorBody, LoraxErrorBody
from lorry_server.http.deadline import HEADER as TIMEOUT_HEADER
from lorry_server.http.deadline import MAX_TIMEOUT_MS
from lorry_server.http.errors import is_openai_path
from lorry_server.http.idempotency_key import HEADER as KEY_HEADER
from lorry_server.http.idempotency_key import MAX_CHARS
from lorry_server.http.json_response import encode_json
from lorry_server.http.operations import Operation

REF_TEMPLATE = "#/components/schemas/{name}"


class DocumentEndpoint:
    """`GET /openapi.json`. The document is made when it is first asked for, off the loop."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._operations = operations
        self._document: bytes | None = None

    async def get(self, request: Request) -> Response:
        if self._document is None:
            self._document = await asyncio.to_thread(openapi_document, self._operations)
        return Response(self._document, media_type="application/json")


def openapi_document(operations: Sequence[Operation]) -> bytes:
    """Return the document as JSON, OpenAPI 3.1."""
    types = [kind for o in operations for kind in (o.body, o.answer, o.events) if kind is not None]
    types = list(dict.fromkeys([*types, ErrorBody, LoraxErrorBody]))
    schemas, components = msgspec.json.schema_components(types, ref_template=REF_TEMPLATE)
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        path = operation.path.replace(":path}", "}")
        paths.setdefault(path, {})[operation.method.lower()] = describe(operation, schema_of)
    return encode_json(
        {
            "openapi": "3.1.0",
            "info": {"title": "lorry", "version": __version__},
            "paths": paths,
            "components": {
                "schemas": components,
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            },
        }
    )


def describe(operation: Operation, schema_of: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if operation.answer is not None:
        content["application/json"] = {"schema": schema_of[operation.answer]}
    if operation.events is not None:
        # Each event's data; there is no standard way to say that they are many.
        content["text/event-stream"] = {"schema": schema_of[operation.events]}
    error = ErrorBody if is_openai_path(operation.path) else LoraxErrorBody
    responses: dict[str, Any] = {
        "default": {
            "description": "An error.",
            "content": {"application/json": {"schema": schema_of[error]}},
        }
    }
    if not operation.is_refusal:
        answer = {"content": content} if content else {}
        responses = {"200": {"description": "The answer.", **answer}, **responses}
    description: dict[str, Any] = {
        "summary": operation.summary,
        "operationId": operation_id(operation),
        "responses": responses,
    }
    if not operation.path.startswith("/health/"):
        description["security"] = [{}, {"key": []}]
    if parameters := described_parameters(operation):
        description["parameters"] = parameters
    if operation.body is not None:
        description["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema_of[operation.body]}},
        }
    return description


def described_parameters(operation: Operation) -> list[dict[str, Any]]:
    described: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in operation.path_parameters
    ]
    described += [
        {
            "name": number.name,
            "in": "query",
            "description": number.meaning,
            "schema": {"type": "integer", "minimum": number.least, "maximum": number.most},
        }
        for number in operation.query
    ]
    if operation.is_generation:
        described += [
            {
                "name": TIMEOUT_HEADER,
                "in": "header",
                "description": "Milliseconds after which nobody waits for the answer any more.",
                "schema": {"type": "integer", "minimum": 0, "maximum": MAX_TIMEOUT_MS},
            },
            {
                "name": KEY_HEADER,
                "in": "header",
                "description": "The same for a request that is sent again; it is computed once.",
                "schema": {"type": "string", "minLength": 1, "maxLength": MAX_CHARS},
            },
        ]
    return described


def operation_id(operation: Operation) -> str:
    words = operation.path.replace("{", "").replace(":path}", "").replace("/", " ").split()
    return "_".join([operation.method.lower(), *words])
