"""Calls into an application of the same process, without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import lorry
from lorry.transports.asgi import MAX_BUFFERED_BYTES
from tests.support.fake_llm_server import completion, event

URL = "http://in.process"
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
HEAD = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream")],
}


def piece(data: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def without_lifespan(answer: Callable[[Any, Receive, Send], Awaitable[None]]) -> Any:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"  # which is how an application says that it has no lifespan
        await answer(scope, receive, send)

    return app


async def test_each_event_is_read_before_the_application_makes_the_next() -> None:
    may_go_on = asyncio.Semaphore(0)

    async def answer(scope: Any, receive: Receive, send: Send) -> None:
        await send(HEAD)
        for text in "abc":
            await send(piece(event(completion(text))))
            await may_go_on.acquire()
        await send(piece(event(completion("", finish_reason="stop"))))
        await send(piece(event("[DONE]"), more=False))

    seen = []
    async with (
        lorry.AsyncClient(URL, transport=lorry.ASGITransport(without_lifespan(answer))) as c,
        c.stream("Hi") as stream,
    ):
        async for token in stream:
            seen.append(token.text)
            may_go_on.release()

    assert seen == ["a", "b", "c"]
    assert stream.timing.tokens_per_event == 1.0


async def test_request_arrives_whole() -> None:
    seen: dict[str, Any] = {}

    async def answer(scope: Any, receive: Receive, send: Send) -> None:
        seen.update(scope)
        seen["message"] = await receive()
        body = json.dumps(completion("x", finish_reason="stop")).encode()
        await send({"type": "http.response.start", "status": 200})
        await send(piece(body, more=False))

    transport = lorry.ASGITransport(without_lifespan(answer), root_path="/behind")
    async with lorry.AsyncClient("http://host:81/v1", api_key="k", transport=transport) as client:
        await client.generate("Hi", request_id="id-1")

    headers = dict(seen["headers"])
    assert (seen["method"], seen["path"], seen["root_path"]) == (
        "POST",
        "/behind/v1/completions",
        "/behind",
    )
    assert seen["server"] == ("host", 81)
    assert headers[b"authorization"] == b"Bearer k"
    assert headers[b"host"] == b"host:81"
    assert headers[b"x-request-id"] == b"id-1"
    assert int(headers[b"content-length"]) == len(seen["message"]["body"])
    assert json.loads(seen["message"]["body"])["prompt"] == "Hi"


async def test_client_that_leaves_is_a_disconnect_and_a_failing_send() -> None:
    told, failed = asyncio.Event(), asyncio.Event()

    async def answer(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send(HEAD)
        await send(piece(event(completion("a"))))
        assert (await receive())["type"] == "http.disconnect"
        told.set()
        with pytest.raises(OSError, match="the client has left"):
            await send(piece(event(completion("b"))))
        failed.set()

    async with lorry.AsyncClient(URL, transport=lorry.ASGITransport(without_lifespan(answer))) as c:
        async with c.stream("Hi") as stream:
            await anext(stream)
        await failed.wait()

    assert told.is_set()


async def test_cancelled_call_is_a_disconnect() -> None:
    started, told = asyncio.Event(), asyncio.Event()

    async def answer(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        started.set()
        assert (await receive())["type"] == "http.disconnect"
        told.set()

    client = lorry.AsyncClient(URL, transport=lorry.ASGITransport(without_lifespan(answer)))
    task = asyncio.create_task(client.generate("Hi"))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await told.wait()
    await client.aclose()

    assert told.is_set()


async def test_application_waits_for_a_slow_reader() -> None:
    num_sent = 0

    async def answer(scope: Any, receive: Receive, send: Send) -> None:
        nonlocal num_sent
        await send(HEAD)
        for _ in range(100):
            await send(piece(event(completion("x" * 4096))))
            num_sent += 1
        await send(piece(event(completion("", finish_reason="stop")), more=False))

    async with (
        lorry.AsyncClient(URL, transport=lorry.ASGITransport(without_lifespan(answer))) as c,
        c.stream("Hi") as stream,
    ):
        await anext(stream)
        for _ in range(10):
            await asyncio.sleep(0)
        num_ahead = num_sent
        text = await stream.text()

    assert num_ahead * 4096 <= MAX_BUFFERED_BYTES + 2 * 4200
    assert (num_sent, len(text)) == (100, 100 * 4096)


async def test_application_that_fails_before_its_answer_fails_the_call() -> None:
    async def answer(scope: Any, receive: Receive, send: Send) -> None:
        raise KeyError("adapters")

    app = without_lifespan(answer)
    async with lorry.AsyncClient(URL, transport=lorry.ASGITransport(app)) as client:
        with pytest.raises(KeyError, match="adapters"):
            await client.generate("Hi")
    quiet = lorry.ASGITransport(app, raise_app_errors=False)
    async with lorry.AsyncClient(URL, transport=quiet) as client:
        with pytest.raises(lorry.ServerError) as caught:
            await client.generate("Hi")

    assert caught.value.status == 500


@pytest.mark.parametrize("raises", [True, False])
async def test_application_that_ends_too_early_cuts_the_stream(raises: bool) -> None:
    async def answer(scope: Any, receive: Receive, send: Send) -> None:
        await send(HEAD)
        await send(piece(event(completion("a"))))
        if raises:
            raise KeyError("weights")

    transport = lorry.ASGITransport(without_lifespan(answer), raise_app_errors=False)
    async with lorry.AsyncClient(URL, transport=transport) as client:
        with pytest.raises(lorry.StreamTruncated) as caught:
            await client.stream("Hi").final()

    assert caught.value.partial is not None
    assert caught.value.partial.text == "a"


async def test_application_without_an_answer_is_an_error() -> None:
    async def answer(scope: Any, receive: Receive, send: Send) -> None:
        await receive()

    async with lorry.AsyncClient(URL, transport=lorry.ASGITransport(without_lifespan(answer))) as c:
        with pytest.raises(RuntimeError, match="returned without an answer"):
            await c.generate("Hi")


def starlette_app(log: list[str]) -> Starlette:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> Any:
        log.append("started")
        yield {"model": "tiny"}
        log.append("ended")

    async def completions(request: Request) -> Response:
        body = await request.json()
        text = f"{request.state.model} {body['prompt']}"
        if not body.get("stream"):
            return JSONResponse(completion(text, finish_reason="stop"))

        async def events() -> Any:
            for word in text.split():
                yield event(completion(word))
            yield event(completion("", finish_reason="stop")) + event("[DONE]")

        return StreamingResponse(events(), media_type="text/event-stream")

    routes = [Route("/v1/completions", completions, methods=["POST"])]
    return Starlette(routes=routes, lifespan=lifespan)


async def test_application_starts_once_and_ends_with_the_client() -> None:
    log: list[str] = []
    async with lorry.AsyncClient(URL, transport=lorry.ASGITransport(starlette_app(log))) as client:
        answers = await asyncio.gather(*(client.generate(str(i)) for i in range(20)))
        streamed = await client.stream("Hi").text()
        with pytest.raises(lorry.HTTPStatusError) as caught:
            await client.tokenize("x")
        assert log == ["started"]

    assert [answer.text for answer in answers] == [f"tiny {i}" for i in range(20)]
    assert streamed == "tinyHi"
    assert caught.value.status == 404
    assert log == ["started", "ended"]


async def test_application_that_does_not_start_is_a_failed_connection() -> None:
    async def app(scope: Any, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no model"})

    client = lorry.AsyncClient(URL, transport=lorry.ASGITransport(app))
    with pytest.raises(lorry.ConnectError, match="did not start: no model"):
        await client.generate("Hi")
    await client.aclose()


async def test_closing_ends_an_application_that_does_not_listen() -> None:
    ended = asyncio.Event()

    async def answer(scope: Any, receive: Receive, send: Send) -> None:
        await send(HEAD)
        await send(piece(event(completion("a"))))
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    client = lorry.AsyncClient(URL, transport=lorry.ASGITransport(without_lifespan(answer)))
    stream = client.stream("Hi")
    await anext(stream)
    await stream.aclose()
    assert not ended.is_set()
    await client.aclose()

    assert ended.is_set()


def test_one_transport_serves_several_loops_in_turn() -> None:
    log: list[str] = []
    client = lorry.AsyncClient(URL, transport=lorry.ASGITransport(starlette_app(log)))

    async def use() -> str:
        async with client:
            return (await client.generate("Hi")).text

    assert [asyncio.run(use()) for _ in range(3)] == ["tiny Hi"] * 3
    assert log == ["started", "ended"] * 3
