"""Requests that no honest client sends, on a real connection: each is refused and told why."""

from __future__ import annotations

import asyncio
import http.client
import json
from typing import Any

import httpx
import pytest

from tests.support.fake_engine import FakeEngine
from tests.support.fake_library import FakeAdapters
from tests.support.http_app import MODEL, app_with, fake_app, ids
from tests.support.live_server import live_server

COMPLETION = {"model": MODEL, "prompt": "p"}
JSON = ("content-type", "application/json")


async def send(
    method: str, path: str, *, headers: list[tuple[str, str]] | None = None, content: Any = None
) -> httpx.Response:
    if content is not None and not isinstance(content, bytes):
        content = json.dumps(content).encode()
    async with (
        live_server(fake_app(FakeEngine(ids("hi")))) as url,
        httpx.AsyncClient() as client,
    ):
        return await client.request(
            method, url + path, headers=headers or [JSON], content=content, timeout=10
        )


def message_of(response: httpx.Response) -> str:
    error = response.json()["error"]
    return str(error["message"] if isinstance(error, dict) else error)


@pytest.mark.parametrize("path", ["/invocations", "/v1/completions", "/tokenize"])
@pytest.mark.parametrize(
    ("headers", "word"),
    [
        ([JSON, ("content-type", "text/plain")], "one header `content-type"),
        ([("content-type", "text/plain"), JSON], "one header `content-type"),
        ([JSON, JSON], "one header `content-type"),
        ([("content-type", "application/json; v=1; charset=latin-1")], "UTF-8"),
        ([("content-type", 'application/json; charset = "utf-16"')], "UTF-8"),
        ([JSON, ("content-encoding", "identity"), ("content-encoding", "gzip")], "compressed"),
        ([("content-type", "application/x-www-form-urlencoded")], "must be JSON"),
        ([("accept", "*/*")], "must be JSON"),
    ],
)
async def test_what_is_not_plain_json_in_every_header_is_refused(path, headers, word):
    response = await send("POST", path, headers=headers, content=COMPLETION)

    assert response.status_code == 415
    assert word in message_of(response)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v1/adapters/sql", "DELETE, GET, HEAD, PUT"),
        ("PATCH", "/v1/adapters/team/sql", "DELETE, GET, HEAD, PUT"),
        ("PUT", "/", "GET, HEAD, POST"),
        ("DELETE", "/v1/adapters", "GET, HEAD"),
        ("GET", "/invocations", "POST"),
        ("POST", "/ping", "GET, HEAD"),
        ("DELETE", "/metrics", "GET, HEAD"),
        ("POST", "/v1/steps", "GET, HEAD"),
        ("OPTIONS", "/generate", "POST"),
    ],
)
async def test_a_wrong_method_is_told_every_right_one(method, path, allowed):
    response = await send(method, path, content={})

    assert response.status_code == 405
    assert response.headers["allow"] == allowed
    assert f"it allows {allowed}." in message_of(response)


@pytest.mark.parametrize(
    "query",
    [
        "since=-1",
        "since=NaN",
        "since=1e3",
        "since=9223372036854775808",
        "since=%D9%A3",
        "limit=0",
        "limit=1001",
        "limit=1.5",
        "limit=%00",
        "limit=1&limit=2",
        "limit=10;since=1",
        "limit",
        "colour=1",
        "%ff=1",
    ],
)
async def test_steps_refuse_what_is_no_number_of_theirs_by_name(query):
    response = await send("GET", f"/v1/steps?{query}")

    assert response.status_code == 400
    assert "since" in message_of(response) or "limit" in message_of(response)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "is empty"),
        (b"[]", "must be a JSON object"),
        (b"NaN", "not valid JSON"),
        (b'{"inputs":NaN}', "not valid JSON"),
        (b'{"inputs":1e400}', "out of range"),
        (b'{"inputs":"a"', "ends too early"),
        (b'{"inputs":"\\ud800"}', "surrogate pair"),
        (b'{"inputs":"\\udc00 and more"}', "surrogate pair"),
        (b'\xef\xbb\xbf{"inputs":"a"}', "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"inputs":"a"} {"inputs":"b"}', "not valid JSON"),
        (b'{"inputs":"a","inputs":"b"}', '"inputs" is there twice'),
        (b'{"inputs":["a"]}', "`inputs`"),
        (b'{"inputs":""}', "`inputs`"),
        (b'{"inputs":"a","colour":1}', 'unknown field "colour"'),
    ],
)
@pytest.mark.parametrize("path", ["/invocations", "/tokenize"])
async def test_a_body_that_is_none_is_told_what_is_wrong_with_it(path, content, word):
    response = await send("POST", path, content=content)

    assert response.status_code == 422
    assert word in message_of(response)


@pytest.mark.parametrize(
    "source",
    [
        "http://user:secret-word@host/adapter",
        "s3://secret-word@bucket/adapter",
        "HTTPS://user:secret-word@host/adapter",
        "https://user:secret-word%40@host/adapter",
        "ftp://a@secret-word@host",
    ],
)
@pytest.mark.parametrize("preload", [True, False])
async def test_a_source_with_a_password_is_refused_and_the_password_shown_to_nobody(
    source, preload, log
):
    adapters = FakeAdapters()
    adapters.put("/good", "aaaa0000")
    async with live_server(app_with(adapters)) as url, httpx.AsyncClient() as client:
        await client.put(f"{url}/v1/adapters/sql", json={"source": "/good"})
        refused = await client.put(
            f"{url}/v1/adapters/sql", json={"source": source, "preload": preload}
        )
        vllm = await client.post(
            f"{url}/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": source}
        )
        cards = await client.get(f"{url}/v1/adapters")

    assert (refused.status_code, vllm.status_code) == (400, 400)
    assert refused.json()["error"]["param"] == "source"
    assert "***@" in message_of(refused)
    shown = refused.text + vllm.text + cards.text + repr(log)
    assert "secret-word" not in shown
    assert cards.json()["data"][0]["state"] == "ready"


@pytest.mark.parametrize("source", ["s3://", "http://", "s3://a/../b", "local://x", "://x"])
async def test_a_url_that_is_none_is_refused_before_it_is_anybodys_source(source):
    response = await send("PUT", "/v1/adapters/sql", content={"source": source, "preload": False})

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "source"
    assert "is not allowed" in message_of(response)


@pytest.mark.parametrize(
    ("size", "content_type", "status"),
    [
        (3_000_000, "application/json", 413),
        (20_000_000, "application/json", 413),
        (1_500_000, "text/plain", 415),
    ],
)
async def test_a_client_that_sends_all_of_a_body_before_it_reads_learns_why_it_was_refused(
    size, content_type, status
):
    body = json.dumps(COMPLETION | {"prompt": "x" * size}).encode()

    def post(url: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
        connection.request("POST", "/v1/completions", body, {"content-type": content_type})
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer

    async with live_server(fake_app(FakeEngine())) as url:
        answer = await asyncio.to_thread(post, url)

    assert answer[0] == status
    assert b"message" in answer[1]


async def test_a_client_learns_why_a_body_of_unsaid_length_was_cut_off():
    def post(url: str) -> int:
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=20)
        pieces = (b" " * 100_000 for _ in range(100))
        connection.request("POST", "/generate", pieces, dict([JSON]), encode_chunked=True)
        status = connection.getresponse().status
        connection.close()
        return status

    async with live_server(fake_app(FakeEngine())) as url:
        assert await asyncio.to_thread(post, url) == 413


async def test_a_refused_body_that_does_not_come_holds_the_connection_for_a_moment_only():
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n"
    async with live_server(fake_app(FakeEngine())) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head + b"{")
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()

    assert answer.startswith(b"HTTP/1.1 415 ")
    assert b"connection: close" in answer.lower()
