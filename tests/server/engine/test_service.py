"""The engine's thread behind its client: streams, aborts, queue limits, failures, drain."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from lorry_server.engine.client import EngineInfo
from lorry_server.engine.outputs import FinishReason, TokenOutput
from lorry_server.engine.service import EngineService
from lorry_server.engine.token_stream import TokenStream
from lorry_server.errors import AdapterError, DrainingError, EngineDeadError, QueueFullError
from tests.support.engines import expected_tokens, generated, make_engine, request
from tests.support.fake_adapters import fake_prepared
from tests.support.fake_clock import FakeClock
from tests.support.fake_runner import FakeRunner
from tests.support.stream_reader import StreamReader

PROMPT = [11, 12, 13, 14, 15]


def make_runner(**options: Any) -> FakeRunner:
    return FakeRunner(num_blocks=64, block_size=4, **options)


@asynccontextmanager
async def running_service(
    runner: FakeRunner | None = None,
    *,
    max_queued_requests: int = 100,
    clock: Callable[[], float] = time.perf_counter,
) -> AsyncIterator[EngineService]:
    engine, runner = make_engine(
        num_blocks=64,
        max_model_len=200,
        runner=runner or make_runner(),
        adapters={"digest": 4},
        clock=clock,
    )
    info = EngineInfo(
        model_id="base",
        model_path="/models/base",
        architecture="Fake",
        dtype="float32",
        device="cpu",
        quantization="none",
        max_model_len=200,
        logits_width=1000,
        eos_token_ids=(7,),
        block_size=4,
        num_blocks=64,
        max_num_seqs=8,
        max_num_batched_tokens=16,
        max_queued_requests=max_queued_requests,
        adapter_budget_bytes=4,
    )
    service = EngineService(engine, info)
    service.start()
    try:
        yield service
    finally:
        await service.stop()


async def test_streams_give_each_request_its_own_tokens() -> None:
    async with running_service() as service:
        prompts = [[index, *PROMPT] for index in range(6)]
        streams = service.submit([request(f"r{i}", p, max_tokens=9) for i, p in enumerate(prompts)])

        async def read(index: int) -> list[int]:
            async with StreamReader(streams[index]) as reader:
                return generated([output async for output in reader])

        results = await asyncio.gather(*(read(index) for index in range(6)))

        assert results == [expected_tokens(prompt, 9) for prompt in prompts]


async def test_weights_reach_the_scheduler_on_the_engines_thread() -> None:
    given: list[tuple[str | None, float, str]] = []
    async with running_service() as service:
        scheduler = service._engine.scheduler
        set_weight = scheduler.set_weight

        def note(digest: str | None, weight: float) -> None:
            given.append((digest, weight, threading.current_thread().name))
            set_weight(digest, weight)

        scheduler.set_weight = note  # type: ignore[method-assign] # to see what comes
        service.set_adapter_weight("digest", 3.0)
        service.set_adapter_weight(None, 0.5)
        (stream,) = service.submit([request("a", PROMPT, adapter="digest", max_tokens=3)])
        async for _ in StreamReader(stream):
            pass

    assert given == [("digest", 3.0, "lorry-engine"), (None, 0.5, "lorry-engine")]


async def test_a_slow_reader_gets_what_it_missed_in_one_output() -> None:
    async with running_service() as service:
        (slow,) = service.submit([request("slow", PROMPT, max_tokens=9)])
        (other,) = service.submit([request("other", PROMPT, max_tokens=20)])
        async for _ in StreamReader(other):
            pass

        outputs = [output async for output in StreamReader(slow)]

        assert len(outputs) == 1
        assert outputs[0].token_ids == tuple(expected_tokens(PROMPT, 9))
        assert outputs[0].finish_reason is FinishReason.LENGTH


async def test_leaving_a_stream_aborts_its_sequence() -> None:
    async with running_service() as service:
        (stream,) = service.submit([request("a", PROMPT, max_tokens=150, adapter="digest")])
        async with StreamReader(stream) as reader:
            await anext(reader)
        await service.drain()

        stats = service.stats()
        assert (stats.num_running, stats.num_waiting) == (0, 0)
        assert stats.num_used_blocks == 0
        assert stats.num_adapter_pins == 0


async def test_a_departure_during_a_step_frees_the_blocks_right_after_that_step() -> None:
    runner = make_runner()
    steps = threading.Semaphore(2)

    def before_step(call: int) -> None:
        assert steps.acquire(timeout=10)

    runner.before_step = before_step
    async with running_service(runner) as service:
        (stream,) = service.submit([request("a", PROMPT, max_tokens=100)])
        async with StreamReader(stream) as reader:
            num_tokens = 0
            while num_tokens < 2:  # two outputs may come as one
                num_tokens += len((await anext(reader)).token_ids)
        steps.release()  # the third step was waiting when the reader left
        await service.drain()

        assert len(runner.plans) <= 3
        assert service.stats().num_used_blocks == 0


async def test_five_hundred_random_departures_leave_nothing_behind() -> None:
    async with running_service(max_queued_requests=1000) as service:

        async def visit(index: int) -> None:
            adapter = "digest" if index % 3 == 0 else None
            (stream,) = service.submit(
                [request(f"r{index}", [index, *PROMPT], max_tokens=30, adapter=adapter)]
            )
            async with StreamReader(stream) as reader:
                for _ in range(index % 7):
                    await anext(reader, None)

        await asyncio.gather(*(visit(index) for index in range(500)))
        await service.drain()

        stats = service.stats()
        assert (stats.num_running, stats.num_waiting, stats.num_used_blocks) == (0, 0, 0)
        assert stats.num_adapter_pins == 0


async def test_requests_beyond_the_queue_are_refused_whole() -> None:
    release = threading.Event()
    runner = make_runner()
    runner.before_step = lambda call: assert_is_set(release)
    async with running_service(runner, max_queued_requests=2) as service:
        service.submit([request(f"r{index}", PROMPT, max_tokens=2) for index in range(9)])

        with pytest.raises(QueueFullError) as refusal:
            service.submit([request("x", PROMPT), request("y", PROMPT)])

        assert refusal.value.retry_after_s >= 1
        service.submit([request("z", PROMPT)])
        release.set()
        await service.drain()


async def test_draining_finishes_what_was_accepted_and_refuses_the_rest() -> None:
    async with running_service() as service:
        (stream,) = service.submit([request("a", PROMPT, max_tokens=30)])
        service.begin_drain()

        with pytest.raises(DrainingError):
            service.submit([request("b", PROMPT)])

        assert generated([output async for output in StreamReader(stream)]) == expected_tokens(
            PROMPT, 30
        )
        assert service.stats().is_draining


async def test_what_has_not_finished_when_the_time_for_it_is_over_is_aborted() -> None:
    async with running_service() as service:
        (stream,) = service.submit([request("a", PROMPT, max_tokens=190)])
        reader = StreamReader(stream)
        await anext(reader)
        service.end_all()

        last = [output async for output in reader][-1]

        assert last.finish_reason is FinishReason.ABORT
        assert last.error is None


async def test_one_failed_step_is_survived() -> None:
    async with running_service(make_runner(fail_at=frozenset({2}))) as service:
        (failed,) = service.submit([request("a", PROMPT, max_tokens=9)])
        assert [o async for o in StreamReader(failed)][-1].finish_reason is FinishReason.ERROR

        (stream,) = service.submit([request("b", PROMPT, max_tokens=9)])

        assert generated([o async for o in StreamReader(stream)]) == expected_tokens(PROMPT, 9)
        assert service.stats().is_healthy


async def test_an_engine_that_keeps_failing_dies_loudly() -> None:
    died = asyncio.Event()
    runner = make_runner(fail_at=frozenset(range(1, 100)))
    engine, _ = make_engine(num_blocks=64, runner=runner, max_num_seqs=1)
    async with running_service() as template:
        info = template.info
    service = EngineService(engine, info)
    service.start(on_death=died.set)
    streams = service.submit([request(f"r{index}", PROMPT) for index in range(6)])
    for stream in streams:
        assert [o async for o in StreamReader(stream)][-1].finish_reason is FinishReason.ERROR
    await died.wait()

    assert not service.stats().is_healthy
    with pytest.raises(EngineDeadError):
        service.submit([request("late", PROMPT)])
    await service.stop()


async def test_a_listener_learns_of_what_came_before_it() -> None:
    outputs: list[TokenOutput] = []
    stream = TokenStream("a", abort=lambda _: None, lift_deadline=lambda _: None)
    stream.push(TokenOutput("a", (1,)))

    stream.listen(outputs.append)
    stream.push(TokenOutput("a", (2, 3), finish_reason=FinishReason.LENGTH))

    assert [output.token_ids for output in outputs] == [(1,), (2, 3)]
    assert stream.take().token_ids == (1, 2, 3)


async def test_a_deadline_that_is_lifted_ends_nothing() -> None:
    clock, go_on = FakeClock(), threading.Event()
    runner = make_runner()
    runner.before_step = lambda call: assert_is_set(go_on)
    async with running_service(runner, clock=clock) as service:
        deadline_s = clock.now_s + 1.0
        lifted, late = service.submit(
            [request(name, PROMPT, max_tokens=6, deadline_s=deadline_s) for name in ("a", "b")]
        )
        lifted.lift_deadline()
        clock.advance(2.0)
        go_on.set()

        whole = [output async for output in StreamReader(lifted)]
        cut = [output async for output in StreamReader(late)]

    assert generated(whole) == expected_tokens(PROMPT, 6)
    assert cut[-1].finish_reason is FinishReason.DEADLINE


def assert_is_set(event: threading.Event) -> None:
    assert event.wait(10.0)


async def test_an_adapter_serves_from_when_it_is_offered_until_it_is_withdrawn() -> None:
    async with running_service() as service:
        service.offer_adapter(fake_prepared("late", num_bytes=3, number=5))
        (stream,) = service.submit([request("a", PROMPT, adapter="late", max_tokens=6)])
        service.withdraw_adapter("late")

        tokens = generated([output async for output in StreamReader(stream)])
        (refused,) = service.submit([request("b", PROMPT, adapter="late")])
        last = [output async for output in StreamReader(refused)][-1]

        assert tokens == expected_tokens(PROMPT, 6, adapter=5)
        assert last.finish_reason is FinishReason.ERROR
        assert last.error == "this request's adapter is not loaded"
        assert service.stats().is_healthy


async def test_residency_is_in_the_stats() -> None:
    async with running_service() as service:
        for digest in ("one", "two"):
            service.offer_adapter(fake_prepared(digest, num_bytes=3))
        for index, digest in enumerate(["one", "one", "two"]):
            (stream,) = service.submit([request(f"r{index}", PROMPT, adapter=digest)])
            async for _ in StreamReader(stream):
                pass
        await service.drain()

        stats = service.stats()
        assert stats.resident_adapters == ("two",)
        assert stats.resident_adapter_bytes == 3
        assert (stats.adapter_hits, stats.adapter_attaches, stats.adapter_evictions) == (1, 2, 1)


async def test_an_adapter_larger_than_the_memory_for_adapters_is_refused() -> None:
    async with running_service() as service:
        with pytest.raises(AdapterError, match=r"5 bytes .* the memory for adapters is 4 bytes"):
            service.offer_adapter(fake_prepared("large", num_bytes=5))

        assert service.stats().is_healthy
