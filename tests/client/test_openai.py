"""`client.openai()`: the package's own types over our calls, with errors that are what they say."""

from __future__ import annotations

import asyncio
import math
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest

import lorry
from lorry.openai_bridge import bridge
from lorry.testing import Answer, FakeServer, Refusal
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply, completion, event

HELLO: Any = [{"role": "user", "content": "Hi"}]
ONCE = lorry.RetryPolicy(max_attempts=1)


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    async with FakeServer({"": Answer(text="base words"), "pirate": Answer(text="Arr, me")}) as s:
        yield s


@pytest.fixture
async def client(server: FakeServer) -> AsyncIterator[lorry.AsyncClient]:
    async with lorry.AsyncClient(server.url, retry=ONCE) as client:
        yield client


def refusing_url() -> str:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{placeholder.getsockname()[1]}"


async def test_adapter_is_the_model(client: lorry.AsyncClient, server: FakeServer) -> None:
    async with client.openai() as through:
        chat = await through.chat.completions.create(model="pirate", messages=HELLO)
        text = await through.completions.create(model="pirate", prompt="Hi")
        base = await through.completions.create(model="", prompt="Hi")

    assert chat.choices[0].message.content == text.choices[0].text == "Arr, me"
    assert base.choices[0].text == "base words"
    assert (await client.generate("Hi")).text == "base words"  # closing it closed nothing of ours
    assert server.num_connections == 1


async def test_stream_is_passed_on_piece_by_piece(client: lorry.AsyncClient) -> None:
    may_go_on = asyncio.Semaphore(0)

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        for text in "abc":
            await reply.events(completion(text))
            await may_go_on.acquire()
        await reply.events(completion("", finish_reason="stop"), "[DONE]")
        await reply.end_stream()

    seen = []
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as own:
        stream = await own.openai().completions.create(model="m", prompt="Hi", stream=True)
        async for chunk in stream:
            seen.append(chunk.choices[0].text)
            may_go_on.release()
        again = await own.openai().completions.create(model="m", prompt="Hi", stream=True)
        await again.close()

    assert seen == ["a", "b", "c", ""]
    assert server.num_connections == 1  # the first stream was read to its end


async def test_closed_stream_closes_the_socket() -> None:
    async with (
        FakeServer(Answer(text="a b c", gap_s=60.0)) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        through = client.openai()
        stream = await through.chat.completions.create(model="", messages=HELLO, stream=True)
        await anext(aiter(stream))
        assert server.num_open == 1
        await stream.close()
        await server.idle()

    assert server.num_abandoned == 1


async def test_cancelled_call_closes_the_socket() -> None:
    async with (
        FakeServer(Answer(text="late", first_token_s=60.0)) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        call = client.openai().completions.create(model="", prompt="Hi")
        task = asyncio.create_task(call)
        await server.received()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.idle()

    assert server.num_abandoned == 1


async def test_refused_connection_is_no_timeout() -> None:
    async with lorry.AsyncClient(refusing_url(), retry=ONCE) as client:
        with pytest.raises(openai.APIConnectionError) as caught:
            await client.openai().completions.create(model="", prompt="Hi")
        timing = client.timing_of(caught.value)

    assert not isinstance(caught.value, openai.APITimeoutError)
    assert caught.value.__cause__ is not None
    ours = caught.value.__cause__.__cause__
    assert isinstance(ours, lorry.ConnectError)
    assert ours.attempts == len(timing.attempts) == 1


async def test_attempts_are_ours() -> None:
    retry = lorry.RetryPolicy(max_attempts=3, base_s=0.0)
    refusals = [Refusal(status=503), Refusal(status=429), Answer(text="third time")]
    async with FakeServer(refusals) as server, lorry.AsyncClient(server.url, retry=retry) as client:
        answer = await client.openai().completions.create(model="", prompt="Hi")

    assert answer.choices[0].text == "third time"
    assert len(client.timing_of(answer).attempts) == 3
    assert len({request.headers["x-request-id"] for request in server.requests}) == 1


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, openai.BadRequestError),
        (401, openai.AuthenticationError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
async def test_refusal_of_the_server_is_the_packages_own_error(
    status: int, expected: type[openai.APIStatusError]
) -> None:
    refusal = Refusal(status=status, message="no, because", code="why", retry_after_s=7)
    async with FakeServer(refusal) as server, lorry.AsyncClient(server.url, retry=ONCE) as client:
        with pytest.raises(expected, match="no, because") as caught:
            await client.openai().completions.create(model="", prompt="Hi")
        timing = client.timing_of(caught.value)

    assert caught.value.code == "why"
    assert caught.value.response.headers["retry-after"] == "7"
    assert len(timing.attempts) == 1


@pytest.mark.parametrize("failure", ["cut", "error", "hang"])
async def test_stream_that_fails_is_never_a_success(failure: Any) -> None:
    answer = Answer(text="a b c", failure=failure, failure_after=1)
    expected = {
        "cut": openai.APIConnectionError,
        "error": openai.APIError,
        "hang": openai.APITimeoutError,
    }
    async with FakeServer(answer) as server, lorry.AsyncClient(server.url, timeout=0.3) as client:
        stream = await client.openai().completions.create(model="", prompt="Hi", stream=True)
        with pytest.raises(expected[failure]) as caught:
            async for _ in stream:
                pass

    assert isinstance(caught.value, openai.APITimeoutError) is (failure == "hang")


async def test_stream_that_ends_in_order_without_its_end_is_an_error() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(completion("a"))
        await reply.end_stream()

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        stream = await client.openai().completions.create(model="", prompt="Hi", stream=True)
        with pytest.raises(openai.APIConnectionError) as caught:
            async for _ in stream:
                pass

    assert "without a finish reason" in str(caught.value.__cause__)


async def test_connection_lost_after_the_finish_reason_has_lost_nothing() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(completion("a", finish_reason="stop"))
        await asyncio.sleep(0.02)
        reply.cut()

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        stream = await client.openai().completions.create(model="", prompt="Hi", stream=True)
        texts = [chunk.choices[0].text async for chunk in stream]

    assert texts == ["a"]


async def test_finish_reason_ends_a_stream_that_is_held_open() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(completion("all of it", finish_reason="stop"))
        await reply.client_left()

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        stream = await client.openai().completions.create(model="", prompt="Hi", stream=True)
        texts = [chunk.choices[0].text async for chunk in stream]

    assert texts == ["all of it"]


async def test_timing_is_found_by_completion_stream_and_request_id(
    client: lorry.AsyncClient,
) -> None:
    through = client.openai()
    whole = await through.completions.create(model="pirate", prompt="Hi")
    stream = await through.chat.completions.create(
        model="pirate",
        messages=HELLO,
        stream=True,
        stream_options={"include_usage": True},
        extra_headers={"x-request-id": "chosen"},
    )
    running = client.timing_of(stream)
    chunks = [chunk async for chunk in stream]
    of_stream, of_whole = client.timing_of("chosen"), client.timing_of(whole)

    assert running.done_ns is None
    assert of_stream == client.timing_of(stream)
    assert of_stream.num_tokens == 2
    assert of_stream.num_events == 2  # the role, the finish reason and the counts are no tokens
    assert of_stream.sent_ns is not None
    assert of_stream.first_token_ns is not None
    assert of_stream.done_ns is not None
    assert of_stream.sent_ns < of_stream.first_token_ns <= of_stream.done_ns
    assert of_whole.num_tokens == 2
    assert of_whole.done_ns is not None
    with pytest.raises(LookupError, match="give the completion, the stream"):
        client.timing_of(chunks[0])
    with pytest.raises(LookupError, match="no call 'unheard'"):
        client.timing_of("unheard")


async def test_key_and_headers_are_this_clients(server: FakeServer) -> None:
    async with lorry.AsyncClient(
        server.url, api_key="sk-mine", headers={"x-team": "blue"}
    ) as client:
        await client.openai().completions.create(model="pirate", prompt="Hi")
    async with lorry.AsyncClient(server.url) as client:
        await client.openai().completions.create(model="pirate", prompt="Hi")
        await client.openai(api_key="other").completions.create(model="pirate", prompt="Hi")
    with_key, without, with_other = (request.headers for request in server.requests)

    assert with_key["authorization"] == "Bearer sk-mine"
    assert with_key["x-team"] == "blue"
    assert with_key["accept-encoding"] == "identity"
    assert "authorization" not in without
    assert with_other["authorization"] == "Bearer other"


async def test_calls_take_their_turn_and_give_it_back() -> None:
    answer = Answer(text="a b c", first_token_s=0.01, gap_s=0.005)
    async with FakeServer(answer) as server, lorry.AsyncClient(server.url, limit=2) as client:
        through = client.openai()

        async def whole() -> None:
            await through.completions.create(model="", prompt="Hi")

        async def streamed() -> None:
            chunks = await through.completions.create(model="", prompt="Hi", stream=True)
            assert [chunk.choices[0].text async for chunk in chunks] == ["a", " b", " c", ""]

        async def left() -> None:
            chunks = await through.completions.create(model="", prompt="Hi", stream=True)
            await anext(aiter(chunks))
            await chunks.close()

        async with asyncio.timeout(10):
            await asyncio.gather(*(call() for call in (whole, streamed, left) * 4))
        stats = client.stats()

    assert server.most_open == 2
    assert (stats.num_in_flight, stats.num_queued) == (0, 0)
    assert len(server.requests) == 12


async def test_time_that_runs_out_in_the_queue_is_a_timeout() -> None:
    async with (
        FakeServer(Answer(first_token_s=60.0)) as server,
        lorry.AsyncClient(server.url, limit=1) as client,
    ):
        through = client.openai()
        first = asyncio.create_task(through.completions.create(model="", prompt="Hi"))
        await server.received()
        with pytest.raises(openai.APITimeoutError) as caught:
            await through.completions.create(model="", prompt="Hi", timeout=0.05)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)

    assert isinstance(caught.value.__cause__, httpx2.PoolTimeout)
    assert len(server.requests) == 1


async def test_calls_go_to_any_of_several_servers_and_questions_to_none() -> None:
    async with (
        FakeServer() as first,
        FakeServer() as second,
        lorry.AsyncClient([first.url, second.url]) as client,
    ):
        through = client.openai()
        for _ in range(40):
            await through.completions.create(model="", prompt="Hi")
        with pytest.raises(lorry.ConfigError, match="of one server"):
            await through.models.list()
        models = await client.at(second.url).openai().models.list()

    assert [model.id for model in models.data] == ["fake"]
    assert min(len(first.requests), len(second.requests)) > 0


async def test_views_of_a_client_know_each_others_calls(client: lorry.AsyncClient) -> None:
    view = client.with_options(timeout=5.0)
    answer = await view.openai().completions.create(model="pirate", prompt="Hi")

    assert client.timing_of(answer) == view.timing_of(answer)


@pytest.mark.parametrize("options", [{}, {"api_key": "sk-per-call"}])
async def test_key_that_a_server_repeats_is_blotted_out(options: dict[str, str]) -> None:
    key = options.get("api_key", "sk-of-the-client")
    refusal = Refusal(status=401, message=f"Incorrect API key provided: {key}")
    async with (
        FakeServer(refusal) as server,
        lorry.AsyncClient(server.url, api_key="sk-of-the-client") as client,
    ):
        with pytest.raises(openai.AuthenticationError, match=r"provided: \*\*\*") as caught:
            await client.openai(**options).completions.create(model="", prompt="Hi")

    assert key not in caught.value.response.text


async def test_timeout_of_a_call_is_its_total() -> None:
    async with (
        FakeServer(Answer(text="late", first_token_s=60.0)) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        through = client.openai(timeout=30.0)
        with pytest.raises(openai.APITimeoutError):
            await through.completions.create(model="", prompt="Hi", timeout=0.1)
        with pytest.raises(openai.APITimeoutError):
            await through.with_options(timeout=0.1).completions.create(model="", prompt="Hi")


async def test_read_timeout_is_the_limit_on_silence() -> None:
    answer = Answer(text="a b", failure="hang", failure_after=1)
    async with FakeServer(answer) as server, lorry.AsyncClient(server.url) as client:
        through = client.openai(timeout=httpx2.Timeout(None, read=0.1))
        stream = await through.completions.create(model="", prompt="Hi", stream=True)
        with pytest.raises(openai.APITimeoutError):
            async for _ in stream:
                pass

    assert client.timing_of(stream).num_events == 1


async def test_recordings_and_faults_work_below_it(server: FakeServer, tmp_path: Path) -> None:
    async def ask(client: lorry.AsyncClient) -> list[str]:
        stream = await client.openai().completions.create(model="pirate", prompt="Hi", stream=True)
        return [chunk.choices[0].text async for chunk in stream]

    cassette = tmp_path / "openai.jsonl"
    recording = lorry.RecordingTransport(None, cassette)
    async with lorry.AsyncClient(server.url, transport=recording) as client:
        recorded = await ask(client)
    replay = lorry.ReplayTransport(cassette, speed=math.inf)
    assert await ask(lorry.AsyncClient(server.url, transport=replay)) == recorded

    faults = lorry.FaultTransport(seed=1, reset_mid_stream=1.0)
    async with lorry.AsyncClient(server.url, transport=faults) as client:
        with pytest.raises(openai.APIConnectionError):
            await ask(client)
    with pytest.raises(lorry.ReplayMismatch):
        await ask(lorry.AsyncClient(server.url, transport=replay))


async def test_an_application_in_this_process_answers_it_too() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream")],
            }
        )
        for data in (completion("a"), completion("b", finish_reason="stop"), "[DONE]"):
            await send({"type": "http.response.body", "body": event(data), "more_body": True})
        await send({"type": "http.response.body"})

    transport = lorry.ASGITransport(app)
    async with lorry.AsyncClient("http://in.process", transport=transport) as client:
        stream = await client.openai().completions.create(model="m", prompt="Hi", stream=True)
        texts = [chunk.choices[0].text async for chunk in stream]

    assert texts == ["a", "b"]
    assert client.timing_of(stream).tokens_per_event == 1.0


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_bridge_is_a_client_of_either_library(
    library: Any, client: lorry.AsyncClient, server: FakeServer
) -> None:
    async with bridge(client._session, library=library) as http:
        answer = await http.post(f"{server.url}/v1/completions", json={"prompt": "Hi"})
        not_found = await http.get(f"{server.url}/nowhere")
        with pytest.raises(library.UnsupportedProtocol, match="is not at"):
            await http.get("http://another.host/v1/models")
        through = openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="k", http_client=http, max_retries=0
        )
        stream = await through.completions.create(model="pirate", prompt="Hi", stream=True)
        texts = [chunk.choices[0].text async for chunk in stream]

    assert answer.json()["choices"][0]["text"] == "base words"
    assert (not_found.status_code, "no GET /nowhere" in not_found.text) == (404, True)
    assert "".join(texts) == "Arr, me"


@pytest.mark.parametrize("name", ["base_url", "http_client", "max_retries"])
async def test_what_is_settled_here_is_refused_by_name(
    name: str, client: lorry.AsyncClient
) -> None:
    with pytest.raises(TypeError, match=f"takes no {name!r}; use AsyncClient"):
        client.openai(**{name: None})


def test_missing_package_is_named() -> None:
    code = "import sys; sys.modules['openai'] = None; import lorry; lorry.AsyncClient('http://x').openai()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )

    assert 'client.openai() needs openai: pip install "lorry[openai]"' in done.stderr
