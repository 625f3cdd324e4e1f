"""When requests go out again, and when they must not."""

from __future__ import annotations

import socket

import pytest

import lorry
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply, completion

SOON = lorry.RetryPolicy(max_attempts=3, base_s=0.0)


def policy_delay(
    failure: lorry.ClientError, *, attempts: int = 1, remaining_s: float | None = None
) -> float | None:
    policy = lorry.RetryPolicy(max_attempts=4, base_s=1.0, cap_s=3.0, max_retry_after_s=20.0)
    return policy.delay_s(
        failure, num_attempts=attempts, remaining_s=remaining_s, random=lambda: 0.5
    )


@pytest.mark.parametrize(("attempts", "delay_s"), [(1, 0.5), (2, 1.0), (3, 1.5), (4, None)])
def test_delay_doubles_up_to_its_cap_and_attempts_end(attempts: int, delay_s: float) -> None:
    refused = lorry.ConnectError("no", refused=True)

    assert policy_delay(refused, attempts=attempts) == delay_s


def test_jitter_is_added_to_retry_after_never_taken_from_it() -> None:
    assert policy_delay(lorry.Overloaded("full", retryable=True, retry_after=2.0)) == 2.5


def test_retry_after_that_is_too_long_is_not_waited_for() -> None:
    assert policy_delay(lorry.Overloaded("full", retryable=True, retry_after=21.0)) is None


def test_no_retry_starts_after_the_deadline() -> None:
    refused = lorry.ConnectError("no", refused=True)

    assert policy_delay(refused, remaining_s=0.4) is None
    assert policy_delay(refused, remaining_s=0.6) == 0.5


@pytest.mark.parametrize(
    "failure",
    [
        lorry.ConnectError("name not known"),
        lorry.ConnectionLost("reset"),
        lorry.ServerError("broken", status=500),
        lorry.Overloaded("draining", status=503, retryable=False),
        lorry.DeadlineExceeded("late"),
        lorry.StreamTruncated("cut"),
    ],
)
def test_what_may_have_run_is_not_sent_again(failure: lorry.ClientError) -> None:
    assert policy_delay(failure) is None


class FailingFirst:
    """Answers the given statuses in turn, then a completion."""

    def __init__(self, *answers: tuple[int, dict[str, str]]) -> None:
        self._answers = list(answers)

    async def __call__(self, request: ReceivedRequest, reply: Reply) -> None:
        if self._answers:
            status, headers = self._answers.pop(0)
            await reply.json(status, {"error": {"message": "later", "type": "x"}}, **headers)
        else:
            await reply.json(200, completion("ok", finish_reason="stop"))


@pytest.mark.parametrize("status", [429, 503])
async def test_overloaded_server_is_asked_again_with_the_same_id(status: int) -> None:
    script = FailingFirst((status, {"retry_after_ms": "1"}), (status, {"retry_after_ms": "1"}))
    async with (
        FakeLLMServer(script) as server,
        lorry.AsyncClient(server.url, retry=SOON) as client,
    ):
        generation = await client.generate("Hi")

    assert generation.text == "ok"
    assert generation.attempts == 3
    assert len({request.headers["x-request-id"] for request in server.requests}) == 1
    assert [request.headers.get("x-request-attempt") for request in server.requests] == [
        None,
        "2",
        "3",
    ]
    assert server.num_connections == 1


async def test_server_that_says_no_is_not_asked_again() -> None:
    script = FailingFirst((503, {"x_should_retry": "false"}))
    async with (
        FakeLLMServer(script) as server,
        lorry.AsyncClient(server.url, retry=SOON) as client,
    ):
        with pytest.raises(lorry.Overloaded) as caught:
            await client.generate("Hi")

    assert len(server.requests) == 1
    assert caught.value.retryable is False


async def test_streams_are_retried_before_their_first_byte_only() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if len(server.requests) == 1:
            await reply.json(503, {"error": "full"})
        else:
            await reply.start_stream()
            reply.cut()

    async with (
        FakeLLMServer(script) as server,
        lorry.AsyncClient(server.url, retry=SOON) as client,
    ):
        with pytest.raises(lorry.StreamTruncated) as caught:
            await client.stream("Hi").final()

    assert caught.value.attempts == 2
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [400, 404, 408, 500, 502, 504])
async def test_other_statuses_are_not_retried(status: int) -> None:
    async with (
        FakeLLMServer(FailingFirst((status, {}))) as server,
        lorry.AsyncClient(server.url, retry=SOON) as client,
    ):
        with pytest.raises(lorry.HTTPStatusError):
            await client.generate("Hi")

    assert len(server.requests) == 1


async def test_connection_that_is_dropped_before_the_answer_is_not_retried() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        reply.cut()

    async with (
        FakeLLMServer(script) as server,
        lorry.AsyncClient(server.url, retry=SOON) as client,
    ):
        with pytest.raises(lorry.ConnectionLost):
            await client.generate("Hi")

    assert len(server.requests) == 1


async def test_refused_connection_is_retried_and_is_no_timeout() -> None:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{placeholder.getsockname()[1]}"
        async with lorry.AsyncClient(url, retry=SOON) as client:
            with pytest.raises(lorry.ConnectError, match="is the server running") as caught:
                await client.generate("Hi")

    assert caught.value.attempts == 3
    assert caught.value.retryable is True


async def test_attempts_that_failed_in_different_ways_are_all_reported() -> None:
    script = FailingFirst((503, {"retry_after_ms": "0"}), (500, {}))
    async with (
        FakeLLMServer(script) as server,
        lorry.AsyncClient(server.url, retry=SOON) as client,
    ):
        with pytest.raises(lorry.RetriesExhausted, match="2 attempts failed") as caught:
            await client.generate("Hi")

    assert [type(cause) for cause in caught.value.causes] == [lorry.Overloaded, lorry.ServerError]
