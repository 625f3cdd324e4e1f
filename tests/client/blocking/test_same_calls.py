"""What the blocking client has in common with the other: keys, retries, and who closes what."""

from __future__ import annotations

from typing import Any

import pytest

import lorry
from lorry.blocking.connection import ConnectionPool
from lorry.blocking.limited_socket import forever
from tests.support.fake_llm_server import ReceivedRequest, Reply, completion
from tests.support.server_in_thread import ServerInThread
from tests.support.talking_script import Talking


def test_a_function_for_a_key_is_refused_by_name() -> None:
    async def key() -> str:
        return "k"

    with pytest.raises(lorry.ConfigError, match="api_key is a function"):
        lorry.Client("http://x", api_key=key)  # type: ignore[arg-type]  # the point of the test


def test_several_servers_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(lorry.ConfigError, match="base_url names several servers"):
        lorry.Client(["http://a", "http://b"])  # type: ignore[arg-type]  # the point of the test
    monkeypatch.setenv("LORRY_BASE_URL", "http://a,http://b")
    with pytest.raises(lorry.ConfigError, match="base_url names several servers"):
        lorry.Client()


@pytest.mark.parametrize("name", ["limit", "transport", "middleware", "defaults"])
def test_a_setting_that_only_the_async_client_has_is_refused_by_name(name: str) -> None:
    settings: Any = {name: None}
    with pytest.raises(TypeError, match=f"'{name}' is a setting of AsyncClient"):
        lorry.Client("http://x", **settings)


def test_a_setting_that_neither_client_has_is_refused_with_the_one_that_was_meant() -> None:
    settings: Any = {"time_out": 3}
    with pytest.raises(TypeError, match="'time_out'; did you mean 'timeout'"):
        lorry.Client("http://x", **settings)


def test_the_idempotency_key_is_escaped_as_the_async_client_does() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(200, completion("x", finish_reason="stop"))

    with ServerInThread(script) as server, lorry.Client(server.url) as client:
        client.generate("Hi", request_id='say "hi"')

    headers = server.requests[0].headers
    assert headers["x-request-id"] == 'say "hi"'
    assert headers["idempotency-key"] == "say%20%22hi%22"


@pytest.mark.parametrize("heeds_keys", [True, False])
def test_a_kept_connection_that_was_closed_is_made_good_where_keys_are_heeded(
    heeds_keys: bool,
) -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if len(server.requests) == 2:
            reply.cut()  # at the moment at which the request is sent
            return
        echo = {"idempotency_key": request.headers["idempotency-key"]} if heeds_keys else {}
        await reply.json(200, completion("x", finish_reason="stop"), **echo)

    once = lorry.RetryPolicy(max_attempts=1)
    with ServerInThread(script) as server, lorry.Client(server.url, retry=once) as client:
        client.generate("Hi")
        if heeds_keys:
            assert client.generate("Hi").attempts == 2
        else:
            with pytest.raises(lorry.ConnectionLost):
                client.generate("Hi")

    assert len(server.requests) == (3 if heeds_keys else 2)


def test_attempts_that_failed_name_their_call() -> None:
    async def full(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(503, {"error": "full"})

    retry = lorry.RetryPolicy(max_attempts=2, base_s=0.001)
    with (
        ServerInThread(full) as server,
        lorry.Client(server.url, retry=retry) as client,
        pytest.raises(lorry.Overloaded) as caught,
    ):
        client.generate("Hi", request_id="id-1", adapter="pirate")

    (cause,) = caught.value.causes
    assert (cause.request_id, cause.adapter, cause.attempts) == ("id-1", "pirate", 1)


def test_a_cancellation_that_comes_too_late_closes_nothing_of_others() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if request.json.get("stream"):
            await reply.stream(completion("x", token_ids=[1], finish_reason="stop"))
        else:
            await reply.json(200, completion("y", finish_reason="stop"))

    with ServerInThread(script) as server, lorry.Client(server.url) as client:
        stream = client.stream("Hi")
        stream.final()
        stream._exchange.cancel("too late")
        again = client.generate("Hi")

    assert again.timing.reused_connection is True


def test_a_connection_that_was_closed_here_is_not_handed_out() -> None:
    with ServerInThread(Talking()) as server:
        pool = ConnectionPool(server.url)
        closed = pool.connect(forever)
        closed.abort()
        pool.give_back(closed)

        assert pool.take() is None


def test_a_broken_event_says_where_in_the_stream_it_stands() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.chunk(b"data: {nonsense}\n\n")
        await reply.end_stream()

    with (
        ServerInThread(script) as server,
        lorry.Client(server.url) as client,
        pytest.raises(lorry.StreamProtocolError) as caught,
    ):
        client.stream("Hi").final()

    assert caught.value.offset == len("data: ")
