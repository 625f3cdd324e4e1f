"""Keys and limits: what is refused before a route sees it."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from starlette.routing import Route

from tests.support.fake_engine import FakeEngine
from tests.support.http_app import MODEL, fake_app, ids, in_process
from tests.support.live_server import live_server

KEY = "s3cret-Key"
BODY = {"model": MODEL, "prompt": "p"}


def routes() -> list[tuple[str, str]]:
    """Every method of every path that the application serves."""
    app = fake_app(FakeEngine())
    found = []
    for route in app.routes:
        assert isinstance(route, Route)
        path = route.path.replace("{model:path}", "x")
        found += [(method, path) for method in sorted(route.methods or ())]
    return found


@pytest.mark.parametrize(("method", "path"), [*routes(), ("GET", "/nothing"), ("PUT", "/v1/x")])
async def test_every_route_but_two_needs_a_key(method, path):
    engine = FakeEngine(ids("x"))
    async with in_process(fake_app(engine, api_keys=(KEY,))) as client:
        response = await client.request(method, path)

    if path in ("/health/live", "/health/ready"):
        assert response.status_code == 200
    else:
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer  ",
        f"Bearer {KEY.lower()}",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        f"Bearer  {KEY}",
        f"Basic {KEY}",
        KEY,
        b"Bearer \x80\xff",
    ],
)
async def test_wrong_key_is_refused_in_the_shape_of_the_route(value):
    async with in_process(
        fake_app(FakeEngine(), api_keys=(KEY,)), headers={"authorization": value}
    ) as client:
        openai = await client.get("/v1/models")
        lorax = await client.get("/info")

    assert (openai.status_code, lorax.status_code) == (401, 401)
    assert openai.json()["error"]["code"] == "invalid_api_key"
    assert lorax.json()["error_type"] == "authentication"


@pytest.mark.parametrize("key", [KEY, "other", "ключ"])
async def test_each_of_the_keys_opens(key):
    async with in_process(
        fake_app(FakeEngine(), api_keys=(KEY, "other", "ключ")),
        headers={"authorization": f"Bearer {key}".encode()},
    ) as client:
        response = await client.get("/v1/models")

    assert response.status_code == 200


async def test_host_header_opens_nothing():
    async with in_process(fake_app(FakeEngine(), api_keys=(KEY,))) as client:
        response = await client.get("/v1/models", headers={"host": "a/health/live?"})

    assert response.status_code == 401


async def test_without_keys_an_authorization_header_says_nothing():
    async with in_process(
        fake_app(FakeEngine()), headers={"authorization": "Bearer hub-token"}
    ) as client:
        response = await client.get("/v1/models")

    assert response.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": ""},
        {"content-type": "application/json", "content-encoding": "gzip"},
        {},
    ],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/generate", "/tokenize"])
async def test_only_plain_json_is_taken(path, headers):
    engine = FakeEngine(ids("x"))
    async with in_process(fake_app(engine)) as client:
        response = await client.post(path, content=json.dumps(BODY), headers=headers)

    assert response.status_code == 415
    assert not engine.submitted


@pytest.mark.parametrize(
    "content_type", ["application/json", "Application/JSON; charset=utf-8", "application/json;"]
)
async def test_content_type_may_have_parameters(content_type):
    async with in_process(fake_app(FakeEngine(ids("x")))) as client:
        response = await client.post(
            "/v1/completions", content=json.dumps(BODY), headers={"content-type": content_type}
        )

    assert response.status_code == 200


async def exchange(url: str, *pieces: bytes) -> bytes:
    """Send raw bytes and return all that comes until the server closes the connection."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for piece in pieces:
        writer.write(piece)
    await writer.drain()
    received = await reader.read(-1)
    writer.close()
    return received


HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


async def test_body_that_is_announced_too_long_is_refused_unread():
    async with live_server(fake_app(FakeEngine(), max_body_bytes=100)) as url:
        received = await exchange(url, HEAD + b"Content-Length: 10737418240\r\n\r\n")

    assert received.startswith(b"HTTP/1.1 413 ")
    assert b"body_too_large" in received
    assert b"connection: close" in received.lower()


async def test_chunked_body_is_cut_at_the_limit():
    chunk = b"40\r\n" + b" " * 64 + b"\r\n"
    async with live_server(fake_app(FakeEngine(), max_body_bytes=100)) as url:
        received = await exchange(url, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", chunk * 2)

    assert received.startswith(b"HTTP/1.1 413 ")


async def test_body_that_does_not_come_is_given_up():
    async with live_server(fake_app(FakeEngine(), body_timeout_s=0.05)) as url:
        received = await exchange(url, HEAD + b"Content-Length: 100\r\n\r\n", b"{")

    assert received.startswith(b"HTTP/1.1 408 ")


async def test_two_lengths_of_one_body_are_refused():
    async with live_server(fake_app(FakeEngine())) as url:
        received = await exchange(
            url,
            HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
            b"0\r\n\r\n",
        )

    assert received.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("header", [b"X: " + b"a" * 8_000_000, b"A: bbbb\r\n" * 20_000 + b"B: c"])
async def test_too_much_head_is_refused(header):
    async with live_server(fake_app(FakeEngine())) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n\r\n")
        status_line = await reader.readline()
        writer.transport.abort()

    assert status_line.split()[1] in (b"400", b"431")


async def test_more_headers_than_allowed_are_refused():
    async with in_process(fake_app(FakeEngine(), max_headers=20)) as client:
        response = await client.get("/health", headers={f"x-{i}": "1" for i in range(20)})

    assert response.status_code == 431


@pytest.mark.parametrize(
    "path", ["//v1/models", "/v1/%2e%2e/info", "/V1/models", "/v1/models/", "/v1%2fmodels/"]
)
async def test_path_that_only_looks_like_a_route_is_none(path):
    async with live_server(fake_app(FakeEngine())) as url, httpx.AsyncClient() as client:
        response = await client.get(url + path)

    assert response.status_code == 404
    assert "location" not in response.headers
