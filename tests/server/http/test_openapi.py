"""The document that is made from the types."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from starlette.routing import Route

from lorry.types.completions import CompletionRequest
from tests.support.fake_engine import FakeEngine
from tests.support.http_app import fake_app, in_process

CONTROL = b'{"model": "tiny", "prompt": "p"}'


async def document() -> dict[str, Any]:
    async with in_process(fake_app(FakeEngine())) as client:
        response = await client.get("/openapi.json")
    assert response.status_code == 200
    decoded: dict[str, Any] = response.json()
    return decoded


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    if isinstance(node, list):
        for value in node:
            yield from references(value)


async def test_document_has_every_route_and_no_other():
    described = await document()

    served = {
        (method.lower(), route.path.replace(":path}", "}"))
        for route in fake_app(FakeEngine()).routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
    served.remove(("get", "/openapi.json"))
    assert served == {
        (method, path) for path, methods in described["paths"].items() for method in methods
    }


async def test_every_reference_has_a_target():
    described = await document()

    names = {reference.rpartition("/")[2] for reference in references(described)}
    assert names
    assert names <= described["components"]["schemas"].keys()


async def test_operation_ids_are_unique():
    described = await document()

    ids = [o["operationId"] for path in described["paths"].values() for o in path.values()]
    assert len(ids) == len(set(ids))


async def test_schema_of_a_body_is_the_type_that_parses_it():
    described = await document()

    schema = described["components"]["schemas"]["CompletionRequest"]
    assert set(schema["properties"]) == set(CompletionRequest.__struct_fields__)
    assert schema["required"] == ["model", "prompt"]
    assert schema["additionalProperties"] is False
    assert {"type": "number", "minimum": 0.0, "maximum": 2.0} in schema["properties"][
        "temperature"
    ]["anyOf"]
    msgspec.json.decode(CONTROL, type=CompletionRequest)


@pytest.mark.parametrize(
    ("path", "component"), [("/v1/completions", "ErrorBody"), ("/generate", "LoraxErrorBody")]
)
async def test_each_family_of_routes_has_its_own_errors(path, component):
    described = await document()

    error = described["paths"][path]["post"]["responses"]["default"]
    reference = error["content"]["application/json"]["schema"]["$ref"]
    assert reference == f"#/components/schemas/{component}"
