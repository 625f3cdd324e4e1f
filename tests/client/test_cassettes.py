"""Recording and replaying: what is kept, what is blotted out, and that answers come back alike."""

from __future__ import annotations

import asyncio
import json
import math
import socket
from pathlib import Path
from typing import Any

import pytest

import lorry
from lorry.testing import Answer, FakeServer, Refusal
from lorry.transports.cassette import read_cassette
from tests.support.fake_llm_server import (
    FakeLLMServer,
    ReceivedRequest,
    Reply,
    completion,
    event,
)

KEY = "sk-very-secret-key"


@pytest.fixture
def cassette(tmp_path: Path) -> Path:
    return tmp_path / "calls.jsonl"


def replayed(cassette: Path, **options: Any) -> lorry.AsyncClient:
    transport = lorry.ReplayTransport(cassette, **{"speed": math.inf, **options})
    return lorry.AsyncClient("http://another.host", transport=transport)


async def test_what_was_recorded_is_answered_again_without_a_server(cassette: Path) -> None:
    async with FakeServer(
        {"": Answer(text="base words"), "pirate": Answer(text="Arr, matey")}
    ) as s:
        recording = lorry.RecordingTransport(None, cassette)
        async with lorry.AsyncClient(s.url, transport=recording) as client:
            whole = await client.generate("Hi", adapter="pirate")
            streamed = await client.stream("Hi").final()

    async with replayed(cassette) as client:
        again = await client.stream("Hi").final()
        whole_again = await client.generate("Hi", adapter="pirate")

    assert (whole_again.text, whole_again.usage) == (whole.text, whole.usage)
    assert (again.text, again.token_ids) == (streamed.text, streamed.token_ids)
    assert again.text == "base words"


async def test_pieces_keep_their_bounds_through_characters_and_line_ends(cassette: Path) -> None:
    stream = event(completion("🏴é")) + event(completion("", finish_reason="stop"))
    pieces = [stream[i : i + 3] for i in range(0, len(stream), 3)]
    went_on = asyncio.Semaphore(0)

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        for part in pieces:
            await reply.chunk(part)
            await went_on.acquire()
        await reply.end_stream()

    async with FakeLLMServer(script) as server:
        recording = lorry.RecordingTransport(None, cassette)
        request = lorry.WireRequest("POST", f"{server.url}/v1/completions", {}, b"{}")
        response = await recording.send(request, attempt=lorry.AttemptTiming(0))
        while await response.read_some():
            went_on.release()
        await recording.aclose()
    track = read_cassette(cassette)[0]
    response_again = await lorry.ReplayTransport(cassette, speed=math.inf).send(
        request, attempt=lorry.AttemptTiming(0)
    )
    again = []
    while data := await response_again.read_some():
        again.append(data)

    assert track.answer is not None
    assert [part.data.bytes() for part in track.answer.pieces] == pieces == again
    assert track.answer.end == "complete"


async def test_no_key_is_in_the_cassette(cassette: Path) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        half = len(KEY) // 2
        data = event(completion(f"your key is {KEY}", finish_reason="stop"))
        cut = data.index(KEY.encode()) + half
        await reply.chunk(data[:cut])
        await reply.pause(0.02)
        await reply.chunk(data[cut:])
        await reply.end_stream()

    async with FakeLLMServer(script) as server:
        recording = lorry.RecordingTransport(None, cassette)
        headers = {"x-api-key": "another-secret", "cookie": "session=abcdefgh"}
        async with lorry.AsyncClient(
            server.url, transport=recording, api_key=KEY, headers=headers
        ) as client:
            extra = {"api_token": "hub-token-123"}
            await client.stream(f"my key is {KEY}", extra_body=extra).final()
    text = text_of(cassette)
    async with replayed(cassette) as client:
        again = await client.stream(f"my key is {KEY}", extra_body=extra).text()

    for secret in (KEY, "another-secret", "abcdefgh", "hub-token-123"):
        assert secret not in text
    assert again == f"your key is {'*' * len(KEY)}"


async def test_alike_requests_get_their_answers_in_the_order_of_sending(cassette: Path) -> None:
    answers = [Answer(text="slow", first_token_s=0.05), Answer(text="quick")]
    async with FakeServer(answers) as server:
        recording = lorry.RecordingTransport(None, cassette)
        async with lorry.AsyncClient(server.url, transport=recording) as client:
            first = asyncio.create_task(client.generate("Hi"))
            await server.received()
            await client.generate("Hi")
            await first

    async with replayed(cassette) as client:
        texts = [(await client.generate("Hi")).text for _ in range(2)]

    assert texts == ["slow", "quick"]


async def test_failures_are_replayed_as_what_they_were(cassette: Path) -> None:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{placeholder.getsockname()[1]}"
        once = lorry.RetryPolicy(max_attempts=1)
        recording = lorry.RecordingTransport(None, cassette)
        async with lorry.AsyncClient(url, transport=recording, retry=once) as client:
            with pytest.raises(lorry.ConnectError):
                await client.generate("nobody")
    answers = [
        Refusal(status=429, message="full", retry_after_s=3),
        Answer(text="a b c", failure="cut", failure_after=1),
    ]
    async with FakeServer(answers) as server:
        second = cassette.with_name("second.jsonl")
        recording = lorry.RecordingTransport(None, second)
        async with lorry.AsyncClient(server.url, transport=recording, retry=once) as client:
            with pytest.raises(lorry.Overloaded):
                await client.generate("full")
            with pytest.raises(lorry.StreamTruncated):
                await client.stream("cut").final()

    refused = lorry.AsyncClient(
        "http://x", transport=lorry.ReplayTransport(cassette, speed=math.inf), retry=once
    )
    with pytest.raises(lorry.ConnectError) as no_connection:
        await refused.generate("nobody")
    others = lorry.AsyncClient(
        "http://x", transport=lorry.ReplayTransport(second, speed=math.inf), retry=once
    )
    with pytest.raises(lorry.Overloaded) as full:
        await others.generate("full")
    with pytest.raises(lorry.StreamTruncated) as cut:
        await others.stream("cut").final()

    assert no_connection.value.retryable is True
    assert full.value.retry_after == 3
    assert cut.value.partial is not None
    assert cut.value.partial.text == "a"


@pytest.mark.parametrize("speed", [1.0, 10.0, math.inf])
async def test_waits_are_those_of_the_recording_over_the_speed(
    cassette: Path, speed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = [event(completion("a")), event(completion("b", finish_reason="stop"))]
    write_cassette(cassette, [(200.0, pieces[0]), (300.0, pieces[1])])
    loop = asyncio.get_running_loop()
    waited: list[float] = []
    at = [0.0]
    transport = lorry.ReplayTransport(cassette, speed=speed)
    request = lorry.WireRequest("POST", "http://x/v1/completions", {}, b"{}")
    monkeypatch.setattr(loop, "time", lambda: at[0])
    response = await transport.send(request, attempt=lorry.AttemptTiming(0))

    async def wait(delay_s: float) -> None:
        waited.append(delay_s)
        at[0] += max(0.0, delay_s)

    monkeypatch.setattr(response, "_wait", wait)
    texts = [await response.read_some(), await response.read_some()]

    assert texts == pieces
    assert waited == pytest.approx([0.2 / speed, 0.3 / speed])


async def test_what_is_due_is_read_without_waiting(cassette: Path) -> None:
    write_cassette(cassette, [(0.0, b"a"), (0.0, b"b"), (60_000.0, b"c")])
    transport = lorry.ReplayTransport(cassette)
    request = lorry.WireRequest("POST", "http://x/v1/completions", {}, b"{}")
    response = await transport.send(request, attempt=lorry.AttemptTiming(0))

    assert response.read_nowait() == b"ab"
    assert response.read_nowait() == b""


async def test_abort_ends_a_wait_for_the_next_piece(cassette: Path) -> None:
    write_cassette(cassette, [(60_000.0, b"late")])
    request = lorry.WireRequest("POST", "http://x/v1/completions", {}, b"{}")
    response = await lorry.ReplayTransport(cassette).send(request, attempt=lorry.AttemptTiming(0))
    reading = asyncio.create_task(response.read_some())
    await asyncio.sleep(0)
    response.abort()

    with pytest.raises(lorry.ConnectionLost, match="closed on this side"):
        await reading


async def test_request_that_was_not_recorded_says_in_what_it_differs(cassette: Path) -> None:
    async with FakeServer() as server:
        recording = lorry.RecordingTransport(None, cassette)
        async with lorry.AsyncClient(server.url, transport=recording) as client:
            await client.generate("Hi", max_tokens=3, seed=1)
    client = replayed(cassette)

    with pytest.raises(lorry.ReplayMismatch, match=r"nearest differs in 'max_tokens'$"):
        await client.generate("Hi", max_tokens=4, seed=1)
    with pytest.raises(lorry.ReplayMismatch, match=r"'seed' \(missing here\), 'top_k' \(not rec"):
        await client.generate("Hi", max_tokens=3, top_k=1)
    with pytest.raises(lorry.ReplayMismatch, match="it has POST /v1/completions"):
        await client.models.list()
    await client.generate("Hi", max_tokens=3, seed=1)
    with pytest.raises(lorry.ReplayMismatch, match="no further answer"):
        await client.generate("Hi", max_tokens=3, seed=1)


async def test_unused_answers_are_counted(cassette: Path) -> None:
    async with FakeServer() as server:
        recording = lorry.RecordingTransport(None, cassette)
        async with lorry.AsyncClient(server.url, transport=recording) as client:
            await client.generate("a")
            await client.generate("b")
    transport = lorry.ReplayTransport(cassette, speed=math.inf)
    await lorry.AsyncClient("http://x", transport=transport).generate("a")

    assert transport.num_unused == 1


async def test_stream_that_was_left_is_replayed_as_far_as_it_was_read(cassette: Path) -> None:
    async with FakeServer(Answer(text="a b c", failure="hang", failure_after=1)) as server:
        recording = lorry.RecordingTransport(None, cassette)
        async with (
            lorry.AsyncClient(server.url, transport=recording) as client,
            client.stream("Hi") as stream,
        ):
            await anext(stream)
    track = read_cassette(cassette)[0]
    with pytest.raises(lorry.StreamTruncated, match="its client had left") as caught:
        await replayed(cassette).stream("Hi").final()

    assert track.answer is not None
    assert track.answer.end == "left"
    assert caught.value.partial is not None
    assert caught.value.partial.text == "a"


def test_recording_that_exists_is_not_written_over(cassette: Path) -> None:
    cassette.write_text("precious")

    with pytest.raises(lorry.ConfigError, match="exists; remove it"):
        lorry.RecordingTransport(None, cassette)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read"),
        (b"", "is not a cassette"),
        (b"{}\n", "is not a cassette"),
        (b'{"lorry_cassette":9}\n', "is of version 9"),
        (b'{"lorry_cassette":1}\n{"index":0}\n', "line 2 of the cassette"),
    ],
)
def test_file_that_is_no_cassette_is_refused(
    cassette: Path, content: bytes | None, reason: str
) -> None:
    if content is not None:
        cassette.write_bytes(content)

    with pytest.raises(lorry.ConfigError, match=reason):
        lorry.ReplayTransport(cassette)


@pytest.mark.parametrize("speed", [0, -1, math.nan])
def test_speed_must_be_above_zero(cassette: Path, speed: float) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        lorry.ReplayTransport(cassette, speed=speed)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def write_cassette(path: Path, pieces: list[tuple[float, bytes]]) -> None:
    """One answer to a POST of `{}`, its pieces with the milliseconds before each."""
    track = {
        "index": 0,
        "method": "POST",
        "path": "/v1/completions",
        "headers": {},
        "body_sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "answer": {
            "after_ms": 0.0,
            "status": 200,
            "headers": {"content-type": "text/event-stream"},
            "pieces": [
                {"after_ms": after_ms, "data": {"text": data.decode()}} for after_ms, data in pieces
            ],
            "end": "complete",
        },
    }
    path.write_text(json.dumps({"lorry_cassette": 1}) + "\n" + json.dumps(track) + "\n")
