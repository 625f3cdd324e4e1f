"""Injected faults: each looks like the real one, and who meets it is decided by the seed."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

import lorry
from lorry.testing import Answer, FakeServer
from lorry.transports.faults import FaultName
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply, completion

ONCE = lorry.RetryPolicy(max_attempts=1)
MIXED: dict[str, Any] = {
    "refuse": 0.1,
    "status_429": 0.1,
    "status_500": 0.1,
    "reset_before_headers": 0.1,
    "reset_mid_stream": 0.1,
}


async def outcome(client: lorry.AsyncClient, prompt: str) -> str:
    try:
        return (await client.stream(prompt).final()).text
    except lorry.ClientError as error:
        return type(error).__name__


@pytest.mark.parametrize(
    ("fault", "expected", "reaches_the_server"),
    [
        ("refuse", lorry.ConnectError, False),
        ("status_429", lorry.Overloaded, False),
        ("status_500", lorry.ServerError, False),
        ("reset_before_headers", lorry.ConnectionLost, True),
        ("reset_mid_stream", lorry.StreamTruncated, True),
    ],
)
async def test_fault_is_the_error_that_the_real_one_is(
    fault: str, expected: type[lorry.ClientError], reaches_the_server: bool
) -> None:
    async with FakeServer(Answer(text="word " * 100)) as server:
        faults = lorry.FaultTransport(seed=1, **{fault: 1.0})  # type: ignore[arg-type]
        async with lorry.AsyncClient(server.url, transport=faults, retry=ONCE) as client:
            with pytest.raises(expected) as caught:
                await client.stream("Hi").final()

    assert type(caught.value) is expected
    assert len(server.requests) == reaches_the_server
    assert faults.num_injected == {fault: 1}


async def test_refused_request_may_be_sent_again() -> None:
    async with FakeServer() as server:
        faults = lorry.FaultTransport(seed=3, refuse=0.5)
        retry = lorry.RetryPolicy(max_attempts=30, base_s=0.0)
        async with lorry.AsyncClient(server.url, transport=faults, retry=retry) as client:
            answers = await asyncio.gather(*(client.generate(str(i)) for i in range(20)))

    assert len(server.requests) == 20
    assert sum(answer.attempts for answer in answers) == 20 + faults.num_injected["refuse"] > 20


async def test_stalled_stream_runs_into_the_limit_on_silence() -> None:
    left = asyncio.Event()

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.start_stream()
        await reply.events(*(completion("word") for _ in range(100)))
        await reply.client_left()
        left.set()

    async with FakeLLMServer(script) as server:
        faults = lorry.FaultTransport(seed=1, stall=1.0)
        async with lorry.AsyncClient(server.url, transport=faults) as client:
            with pytest.raises(lorry.DeadlineExceeded) as caught:
                await client.stream("Hi", timeout=lorry.Timeout(idle=0.05)).final()
            await left.wait()

    assert caught.value.phase == "idle"


async def test_slow_headers_are_waited_for_within_the_deadline() -> None:
    async with FakeServer() as server:
        faults = lorry.FaultTransport(seed=1, slow_headers=1.0, slow_headers_s=60.0)
        async with lorry.AsyncClient(server.url, transport=faults) as client:
            with pytest.raises(lorry.DeadlineExceeded) as caught:
                await client.generate("Hi", deadline=0.1)

    assert caught.value.phase == "headers"


async def test_split_answer_is_the_same_text() -> None:
    text = "🏴 é\u2028 " * 40
    async with FakeServer(Answer(text=text)) as server:
        faults = lorry.FaultTransport(seed=1, split_bytes=1)
        async with lorry.AsyncClient(server.url, transport=faults) as client:
            streamed = await client.stream("Hi").final()
            whole = await client.generate("Hi")

    assert streamed.text == whole.text == text


async def test_fates_are_the_seeds_in_whatever_order_requests_are_sent() -> None:
    async def fates(seed: int, prompts: list[str]) -> dict[str, str]:
        async with FakeServer(Answer(text="word " * 100)) as server:
            faults = lorry.FaultTransport(seed=seed, **MIXED)
            async with lorry.AsyncClient(server.url, transport=faults, retry=ONCE) as client:
                outcomes = await asyncio.gather(*(outcome(client, prompt) for prompt in prompts))
        return dict(zip(prompts, outcomes, strict=True))

    prompts = [f"prompt {i}" for i in range(60)]
    first = await fates(7, prompts)
    again = await fates(7, prompts[::-1])
    other = await fates(8, prompts)

    assert first == again
    assert first != other
    assert len(set(first.values())) == 6  # every fault and success


async def test_shares_are_kept_over_many_requests() -> None:
    class Nothing:
        async def send(self, request: Any, *, attempt: Any) -> Any:
            raise lorry.ConnectionLost("the inner transport")

        async def aclose(self) -> None: ...

    faults = lorry.FaultTransport(Nothing(), seed=1, refuse=0.2, status_429=0.1)
    client = lorry.AsyncClient("http://x", transport=faults, retry=ONCE)
    outcomes = Counter([await outcome(client, str(i)) for i in range(2000)])

    assert outcomes["ConnectError"] == faults.num_injected["refuse"] == pytest.approx(400, abs=80)
    assert outcomes["Overloaded"] == faults.num_injected["status_429"] == pytest.approx(200, abs=60)
    assert outcomes["ConnectionLost"] == 2000 - sum(faults.num_injected.values())


async def test_the_same_request_again_meets_another_fate() -> None:
    async with FakeServer(Answer(text="word " * 100)) as server:
        faults = lorry.FaultTransport(seed=1, **MIXED)
        async with lorry.AsyncClient(server.url, transport=faults, retry=ONCE) as client:
            fates = [await outcome(client, "Hi") for _ in range(40)]

    assert len(set(fates)) > 3


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"refuse": 1.5}, "refuse is 1.5"),
        ({"stall": -0.1}, "stall is -0.1"),
        ({"refuse": 0.6, "stall": 0.6}, "add up to 1.2"),
        ({"slow_headers_s": -1.0}, "slow_headers_s is -1.0"),
        ({"split_bytes": 0}, "split_bytes is 0"),
    ],
)
def test_wrong_settings_are_refused_by_name(wrong: dict[FaultName, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        lorry.FaultTransport(seed=1, **wrong)
