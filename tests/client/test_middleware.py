"""Middleware: what stands around an attempt sees, changes and may end it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

import lorry
from lorry import CallNext, WireRequest, WireResponse
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply, completion

SOON = lorry.RetryPolicy(max_attempts=3, base_s=0.0)


async def answer(request: ReceivedRequest, reply: Reply) -> None:
    await reply.json(200, completion("ok", finish_reason="stop"))


class MadeUp:
    """A response that no server sent."""

    status = 200
    headers: Mapping[str, str] = {"content-type": "application/json"}

    def __init__(self, body: bytes) -> None:
        self._body = body

    @property
    def at_end(self) -> bool:
        return not self._body

    def read_nowait(self) -> bytes:
        body, self._body = self._body, b""
        return body

    async def read_some(self) -> bytes:
        return self.read_nowait()

    def abort(self) -> None: ...

    async def aclose(self) -> None: ...


async def test_the_first_is_outermost_and_all_are_around_every_attempt() -> None:
    seen: list[Any] = []

    async def flaky(request: ReceivedRequest, reply: Reply) -> None:
        if len(server.requests) == 1:
            await reply.json(503, {"error": "full"})
        else:
            await answer(request, reply)

    async def outer(request: WireRequest, call_next: CallNext) -> WireResponse:
        seen.append("outer in")
        response = await call_next(request)
        seen.append(("outer out", response.status))
        return response

    async def inner(request: WireRequest, call_next: CallNext) -> WireResponse:
        seen.append("inner in")
        return await call_next(request)

    async with (
        FakeLLMServer(flaky) as server,
        lorry.AsyncClient(server.url, retry=SOON, middleware=[outer, inner]) as client,
    ):
        await client.generate("Hi")

    each = ["outer in", "inner in"]
    assert seen == [*each, ("outer out", 503), *each, ("outer out", 200)]


async def test_headers_body_and_address_may_be_changed() -> None:
    async def change(request: WireRequest, call_next: CallNext) -> WireResponse:
        body = msgspec.json.decode(request.body or b"")
        return await call_next(
            request.replace(
                url=request.url + "?tenant=7",
                headers={**request.headers, "x-tenant": "7"},
                body=msgspec.json.encode({**body, "prompt": body["prompt"].upper()}),
            )
        )

    async with (
        FakeLLMServer(answer) as server,
        lorry.AsyncClient(server.url, middleware=[change]) as client,
    ):
        await client.generate("Hi")

    request = server.requests[0]
    assert request.path == "/v1/completions?tenant=7"
    assert request.headers["x-tenant"] == "7"
    assert request.json["prompt"] == "HI"


@pytest.mark.parametrize("headers", [{"x": "a\r\ny: b"}, {"Content-Length": "1"}, {"x y": "z"}])
async def test_headers_that_cannot_be_sent_are_refused(headers: dict[str, str]) -> None:
    async def change(request: WireRequest, call_next: CallNext) -> WireResponse:
        return await call_next(request.replace(headers=headers))

    async with (
        FakeLLMServer(answer) as server,
        lorry.AsyncClient(server.url, middleware=[change]) as client,
    ):
        with pytest.raises(lorry.ConfigError, match="header"):
            await client.generate("Hi")

    assert server.requests == []


async def test_a_header_is_replaced_however_its_name_is_written() -> None:
    async def change(request: WireRequest, call_next: CallNext) -> WireResponse:
        return await call_next(
            request.replace(headers={**request.headers, "Authorization": "Bearer theirs"})
        )

    async with (
        FakeLLMServer(answer) as server,
        lorry.AsyncClient(server.url, middleware=[change], api_key="ours") as client,
    ):
        await client.generate("Hi")

    assert server.requests[0].headers["authorization"] == "Bearer theirs"


async def test_an_answer_may_come_from_the_middleware() -> None:
    async def cached(request: WireRequest, call_next: CallNext) -> WireResponse:
        return MadeUp(msgspec.json.encode(completion("cached", finish_reason="stop")))

    async with lorry.AsyncClient("http://nowhere.invalid", middleware=[cached]) as client:
        generation = await client.generate("Hi")

    assert generation.text == "cached"


async def test_an_exception_becomes_what_it_is_and_leaves_no_connection() -> None:
    left = asyncio.Event()

    async def stall(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.client_left()
        left.set()

    class Forbidden(Exception):
        pass

    async def refuse(request: WireRequest, call_next: CallNext) -> WireResponse:
        await call_next(request)
        raise Forbidden("not today")

    async with (
        FakeLLMServer(stall) as server,
        lorry.AsyncClient(server.url, middleware=[refuse]) as client,
    ):
        with pytest.raises(Forbidden, match="not today"):
            await client.generate("Hi")
        await left.wait()
        stats = client.stats().endpoints[0]

    assert stats.num_in_flight == 0


async def test_a_timeout_of_the_middleware_is_not_taken_for_the_deadline() -> None:
    async def slow(request: WireRequest, call_next: CallNext) -> WireResponse:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
        return await call_next(request)

    async with lorry.AsyncClient("http://nowhere.invalid", middleware=[slow]) as client:
        with pytest.raises(TimeoutError):
            await client.generate("Hi", deadline=60)


async def test_a_client_error_of_the_middleware_is_retried_like_any_other() -> None:
    num_calls = 0

    async def open_circuit(request: WireRequest, call_next: CallNext) -> WireResponse:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 1:
            raise lorry.ConnectError("the circuit is open", refused=True)
        return await call_next(request)

    async with (
        FakeLLMServer(answer) as server,
        lorry.AsyncClient(server.url, retry=SOON, middleware=[open_circuit]) as client,
    ):
        generation = await client.generate("Hi")

    assert generation.attempts == 2
    assert len(server.requests) == 1


async def test_middleware_that_sends_twice_gives_the_answer_that_it_does_not_want_back() -> None:
    async def unauthorized_first(request: ReceivedRequest, reply: Reply) -> None:
        if "authorization" in request.headers:
            await answer(request, reply)
        else:
            await reply.json(401, {"error": "no key"})

    async def log_in(request: WireRequest, call_next: CallNext) -> WireResponse:
        response = await call_next(request)
        if response.status == 401:
            headers = {**request.headers, "authorization": "Bearer fresh"}
            response = await call_next(request.replace(headers=headers))
        return response

    async with (
        FakeLLMServer(unauthorized_first) as server,
        lorry.AsyncClient(server.url, middleware=[log_in]) as client,
    ):
        generation = await client.generate("Hi")

    assert generation.text == "ok"
    assert len(server.requests) == 2


async def test_streams_pass_through_it_too() -> None:
    statuses = []

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.stream(completion("a"), completion("b", finish_reason="stop"))

    async def note(request: WireRequest, call_next: CallNext) -> WireResponse:
        response = await call_next(request)
        statuses.append(response.status)
        return response

    async with (
        FakeLLMServer(script) as server,
        lorry.AsyncClient(server.url, middleware=[note]) as client,
    ):
        text = await client.stream("Hi").text()

    assert (text, statuses) == ("ab", [200])


def test_middleware_that_cannot_be_called_is_refused() -> None:
    wrong: Any = "log"
    with pytest.raises(TypeError, match="middleware holds a str"):
        lorry.AsyncClient("http://x", middleware=[wrong])
