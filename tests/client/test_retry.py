"""When requests go out again, and when they must not."""

from __future__ import annotations

import asyncio
import socket
from types import EllipsisType
from typing import Any

import pytest

import lorry
from lorry.retry import BUDGET_WINDOW_S, BudgetAccount, Verdict, as_retry_policy
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply, completion

FULL = lorry.Overloaded("full", retryable=True, retry_after=2.0)
SOON = lorry.RetryPolicy(max_attempts=3, base_s=0.0)


def verdict(
    failure: lorry.ClientError,
    *,
    attempts: int = 1,
    remaining_s: float | None = None,
    last_there: lorry.ClientError | EllipsisType | None = ...,
    answer_takes_s: float = 0.0,
) -> Verdict:
    """The next attempt goes to the server that failed, unless `last_there` is of another."""
    policy = lorry.RetryPolicy(max_attempts=4, base_s=1.0, cap_s=3.0, max_retry_after_s=20.0)
    return policy.judge(
        failure,
        num_attempts=attempts,
        remaining_s=remaining_s,
        random=lambda: 0.5,
        last_there=failure if last_there is ... else last_there,
        answer_takes_s=answer_takes_s,
    )


@pytest.mark.parametrize(("attempts", "delay_s"), [(1, 0.5), (2, 1.0), (3, 1.5), (4, None)])
def test_delay_doubles_up_to_its_cap_and_attempts_end(attempts: int, delay_s: float) -> None:
    refused = lorry.ConnectError("no", refused=True)

    assert verdict(refused, attempts=attempts).delay_s == delay_s


def test_jitter_is_added_to_retry_after_never_taken_from_it() -> None:
    assert verdict(FULL).delay_s == 2.5


def test_retry_after_that_is_too_long_is_not_waited_for() -> None:
    long = lorry.Overloaded("full", retryable=True, retry_after=21.0)

    assert verdict(long) == Verdict(None, "retry_after")


def test_retry_after_holds_for_the_server_that_said_it_and_for_no_other() -> None:
    refused = lorry.ConnectError("no", refused=True)

    assert verdict(FULL, last_there=None) == Verdict(0.5)
    assert verdict(FULL, last_there=refused) == Verdict(0.5)
    assert verdict(refused, last_there=FULL) == Verdict(2.5)


def test_no_retry_starts_after_the_deadline() -> None:
    refused = lorry.ConnectError("no", refused=True)

    assert verdict(refused, remaining_s=0.4) == Verdict(None, "deadline")
    assert verdict(refused, remaining_s=0.6) == Verdict(0.5)


def test_no_retry_starts_that_could_not_bring_its_first_token_in_time() -> None:
    refused = lorry.ConnectError("no", refused=True)

    assert verdict(refused, remaining_s=0.9, answer_takes_s=0.5) == Verdict(None, "deadline")
    assert verdict(refused, remaining_s=1.1, answer_takes_s=0.5) == Verdict(0.5)


def test_a_connection_that_took_too_long_is_as_good_as_none() -> None:
    assert verdict(lorry.DeadlineExceeded("late", phase="connect")) == Verdict(0.5)


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
    assert verdict(failure) == Verdict(None, "not_retryable")


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


def test_a_budget_lets_a_part_of_the_traffic_be_sent_again_and_a_little_more() -> None:
    account = BudgetAccount(lorry.RetryBudget(ratio=0.125, min_per_s=1.0), now=0.0)
    for _ in range(1000):
        account.deposit(0.0)

    granted = sum(account.withdraw(0.0) for _ in range(1000))

    assert granted == 0.125 * 1000 + BUDGET_WINDOW_S


def test_a_budget_without_traffic_fills_at_its_least_rate_and_not_for_ever() -> None:
    account = BudgetAccount(lorry.RetryBudget(ratio=0.1, min_per_s=2.0), now=0.0)
    at_once = sum(account.withdraw(0.0) for _ in range(100))
    a_second_later = sum(account.withdraw(1.0) for _ in range(100))
    an_hour_later = sum(account.withdraw(3600.0) for _ in range(100))

    assert (at_once, a_second_later, an_hour_later) == (20, 2, 20)


def test_a_busy_hour_does_not_pay_for_a_storm_after_it() -> None:
    account = BudgetAccount(lorry.RetryBudget(ratio=0.1, min_per_s=0.0), now=0.0)
    for second in range(3600):
        for _ in range(100):
            account.deposit(float(second))

    granted = sum(account.withdraw(3600.0) for _ in range(10_000))

    assert granted <= 0.1 * 100 * BUDGET_WINDOW_S


def test_a_budget_of_nothing_grants_nothing() -> None:
    account = BudgetAccount(lorry.RetryBudget(ratio=0.0, min_per_s=0.0), now=0.0)
    account.deposit(0.0)

    assert not account.withdraw(1000.0)


@pytest.mark.parametrize("wrong", [{"ratio": -0.1}, {"min_per_s": float("nan")}])
def test_a_wrong_budget_is_named(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        lorry.RetryBudget(**wrong)


def test_a_number_is_the_most_attempts() -> None:
    assert as_retry_policy(5) == lorry.RetryPolicy(max_attempts=5)
    assert as_retry_policy(None) == lorry.RetryPolicy()


@pytest.mark.parametrize(
    ("wrong", "error"),
    [(0, ValueError), (-1, ValueError), (True, TypeError), (2.0, TypeError), ("twice", TypeError)],
)
def test_a_wrong_number_of_attempts_is_named(wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="retry is"):
        lorry.AsyncClient("http://x", retry=wrong)


async def test_calls_beyond_the_budget_fail_at_once_and_say_so() -> None:
    async def full(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(503, {"error": "full"})

    policy = lorry.RetryPolicy(base_s=0.0, budget=lorry.RetryBudget(ratio=0.5, min_per_s=0.0))
    async with FakeLLMServer(full) as server, lorry.AsyncClient(server.url, retry=policy) as client:
        failures = await asyncio.gather(
            *(client.generate("Hi") for _ in range(20)), return_exceptions=True
        )
        stats = client.stats().endpoints[0]

    assert stats.num_retries in (9, 10)  # what was earned fades from the first millisecond on
    assert len(server.requests) == 20 + stats.num_retries
    assert stats.num_retries_refused >= 10
    reasons = [failure.not_retried for failure in failures if isinstance(failure, lorry.Overloaded)]
    assert len(reasons) == 20
    assert "budget" in reasons
    spent = failures[reasons.index("budget")]
    assert isinstance(spent, lorry.Overloaded)
    assert any("retry budget" in note for note in spent.__notes__)


async def test_each_attempt_says_what_it_is_a_copy_of_and_how_much_time_is_left() -> None:
    script = FailingFirst((503, {"retry_after_ms": "60"}))
    async with (
        FakeLLMServer(script) as server,
        lorry.AsyncClient(server.url, retry=SOON) as client,
    ):
        await client.generate("Hi", deadline=20, request_id="id-1")
        await client.generate("Hi", timeout=lorry.Timeout(total=None))
        first, second, without = (request.headers for request in server.requests)

    assert first["idempotency-key"] == second["idempotency-key"] == "id-1"
    assert second["x-request-attempt"] == "2"
    left = [int(headers["x-request-timeout-ms"]) for headers in (first, second)]
    assert 19_000 < left[0] <= 20_000
    assert left[1] <= left[0] - 60
    assert "x-request-timeout-ms" not in without


class ClosingWhenIdle:
    """Answers the first request; drops the kept connection at the second, as if it had timed out."""

    def __init__(self, *, echoes_key: bool, drops: int = 1) -> None:
        self._echoes_key = echoes_key
        self._drops = drops
        self._num_requests = 0

    async def __call__(self, request: ReceivedRequest, reply: Reply) -> None:
        self._num_requests += 1
        if 1 < self._num_requests <= 1 + self._drops:
            reply.cut()
            return
        key = request.headers["idempotency-key"]
        echo = {"idempotency_key": key} if self._echoes_key else {}
        await reply.json(200, completion("ok", finish_reason="stop"), **echo)


async def test_a_kept_connection_that_was_closed_costs_nothing_where_keys_are_heeded() -> None:
    once = lorry.RetryPolicy(max_attempts=1)
    async with (
        FakeLLMServer(ClosingWhenIdle(echoes_key=True)) as server,
        lorry.AsyncClient(server.url, retry=once) as client,
    ):
        await client.generate("Hi")
        generation = await client.generate("Hi", request_id="id-2")

    assert generation.text == "ok"
    assert generation.attempts == 2
    keys = [request.headers["idempotency-key"] for request in server.requests]
    assert keys[1:] == ["id-2", "id-2"]


async def test_a_kept_connection_is_made_good_once_only() -> None:
    async with (
        FakeLLMServer(ClosingWhenIdle(echoes_key=True, drops=2)) as server,
        lorry.AsyncClient(server.url, retry=SOON) as client,
    ):
        await client.generate("Hi")
        with pytest.raises(lorry.ConnectionLost) as caught:
            await client.generate("Hi")

    assert caught.value.attempts == 2
    assert len(server.requests) == 3


async def test_a_kept_connection_that_was_closed_is_an_error_where_a_copy_might_run() -> None:
    async with (
        FakeLLMServer(ClosingWhenIdle(echoes_key=False)) as server,
        lorry.AsyncClient(server.url, retry=SOON) as client,
    ):
        await client.generate("Hi")
        with pytest.raises(lorry.ConnectionLost):
            await client.generate("Hi")

    assert len(server.requests) == 2


async def test_a_fresh_connection_that_is_dropped_is_never_made_good() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if len(server.requests) > 1:
            reply.cut()
            return
        await reply.json(
            200,
            completion("ok"),
            idempotency_key=request.headers["idempotency-key"],
            connection="close",
        )

    async with (
        FakeLLMServer(script) as server,
        lorry.AsyncClient(server.url, retry=SOON) as client,
    ):
        await client.generate("Hi")
        with pytest.raises(lorry.ConnectionLost):
            await client.generate("Hi")

    assert len(server.requests) == 2


async def test_time_that_ran_out_after_failed_attempts_is_called_that() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if len(server.requests) == 1:
            await reply.json(503, {"error": "full"})
        else:
            await reply.client_left()

    async with (
        FakeLLMServer(script) as server,
        lorry.AsyncClient(server.url, retry=SOON) as client,
    ):
        with pytest.raises(lorry.DeadlineExceeded) as caught:
            await client.generate("Hi", deadline=0.1)

    assert caught.value.phase == "headers"
    assert [type(cause) for cause in caught.value.causes] == [lorry.Overloaded]
