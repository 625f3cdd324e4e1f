"""How much is remembered of answers, for how long, and what gives way first."""

from __future__ import annotations

import asyncio

from lorry_server.http.answer_memory import CHUNK_OVERHEAD_BYTES, AnswerMemory, SharedAnswer
from lorry_server.http.idempotency_key import IdempotencyKey
from tests.support.fake_clock import FakeClock


def key(text: str) -> IdempotencyKey:
    return IdempotencyKey(b"owner", text)


def answered(memory: AnswerMemory, text: str, *chunks: bytes) -> SharedAnswer:
    answer = memory.begin(key(text), b"")
    memory.add_head(answer, 200, [])
    for place, chunk in enumerate(chunks, start=1):
        memory.add_chunk(answer, chunk, is_last=place == len(chunks))
    memory.keep(answer)
    return answer


def test_an_answer_is_kept_for_its_time_and_no_longer():
    clock = FakeClock()
    memory = AnswerMemory(kept_s=10.0, clock=clock)
    answer = answered(memory, "a", b"text")

    clock.advance(9.9)
    assert memory.find(key("a")) is answer
    clock.advance(0.1)
    assert memory.find(key("a")) is None
    assert (len(memory), memory.num_bytes) == (0, 0)


def test_keys_of_different_owners_are_different():
    memory = AnswerMemory()
    answered(memory, "a", b"text")

    assert memory.find(IdempotencyKey(b"other", "a")) is None


def test_the_oldest_answers_give_way_when_there_are_too_many():
    memory = AnswerMemory(max_answers=2)
    for text in "abc":
        answered(memory, text, b"text")

    assert memory.find(key("a")) is None
    assert memory.find(key("b")) is not None
    assert memory.find(key("c")) is not None
    assert memory.num_bytes == 2 * (4 + CHUNK_OVERHEAD_BYTES)


def test_short_of_bytes_the_oldest_bodies_go_and_their_keys_stay_known():
    memory = AnswerMemory(max_bytes=1000)
    for text in "abcd":
        answered(memory, text, bytes(200), bytes(100))

    known = [memory.find(key(text)) for text in "abcd"]
    assert [answer is not None and answer.is_replayable for answer in known] == [
        False,
        False,
        True,
        True,
    ]
    assert all(answer is not None for answer in known)
    assert memory.num_bytes <= 1000
    assert known[0] is not None
    assert known[0].chunks == []


def test_an_answer_that_is_too_long_is_known_but_not_kept():
    memory = AnswerMemory(max_answer_bytes=500)

    answer = answered(memory, "a", bytes(400), bytes(400), b"end")

    assert memory.find(key("a")) is answer
    assert not answer.is_replayable
    assert (answer.chunks, memory.num_bytes) == ([], 0)


def test_answers_under_way_share_the_bytes_and_the_one_that_finds_none_is_not_kept():
    memory = AnswerMemory(max_bytes=1000)
    first, second = memory.begin(key("a"), b""), memory.begin(key("b"), b"")
    memory.add_chunk(first, bytes(800), is_last=False)

    memory.add_chunk(second, bytes(800), is_last=False)

    assert (first.is_replayable, second.is_replayable) == (True, False)
    assert memory.num_bytes == 800 + CHUNK_OVERHEAD_BYTES


def test_who_reads_an_answer_reads_on_though_it_is_not_kept():
    memory = AnswerMemory(max_answer_bytes=500)
    answer = memory.begin(key("a"), b"")
    with answer.followed():
        memory.add_chunk(answer, bytes(400), is_last=False)
        memory.add_chunk(answer, bytes(400), is_last=False)
        memory.add_chunk(answer, b"end", is_last=True)
        memory.keep(answer)
        assert len(answer.chunks) == 3

    assert answer.chunks == []
    assert memory.num_bytes == 0


def test_of_an_answer_that_is_not_kept_stays_what_somebody_has_still_to_read():
    memory = AnswerMemory(max_answer_bytes=500)
    answer = memory.begin(key("a"), b"")
    with answer.followed() as slow:
        with answer.followed() as quick:
            read = []
            for place in range(100):
                memory.add_chunk(answer, bytes([place]) * 100, is_last=place == 99)
                read.append(answer.next_chunk(quick))
                if place % 10 == 9:
                    read_slowly = answer.next_chunk(slow)
                    assert read_slowly == bytes([place // 10]) * 100
            assert read == [bytes([place]) * 100 for place in range(100)]
            assert answer.next_chunk(quick) is None
            assert answer.is_read_by(quick)
            assert not answer.is_read_by(slow)
        rest = [answer.next_chunk(slow) for _ in range(50)]
        assert rest == [bytes([place]) * 100 for place in range(10, 60)]
        assert len(answer.chunks) <= 50
    assert (answer.chunks, memory.num_bytes) == ([], 0)


def test_what_is_forgotten_may_begin_again_while_its_last_chunks_still_come():
    memory = AnswerMemory()
    old = memory.begin(key("a"), b"")
    memory.forget(old)

    new = memory.begin(key("a"), b"")
    memory.add_chunk(old, b"late", is_last=True)
    memory.keep(old)

    assert memory.find(key("a")) is new
    assert memory.num_bytes == 0


def test_ten_thousand_answers_leave_nothing_but_the_last_ones():
    memory = AnswerMemory(max_answers=50, max_bytes=10_000)
    for index in range(10_000):
        answered(memory, str(index), bytes(index % 500))

    assert len(memory) == 50
    assert memory.num_bytes <= 10_000
    assert len(memory._replayable) <= 50


async def test_who_waits_for_a_change_may_be_cancelled_in_the_moment_it_comes():
    answer = SharedAnswer(key("a"), b"")
    waits = [asyncio.create_task(answer.change()) for _ in range(3)]
    await asyncio.sleep(0)

    waits[1].cancel()
    answer.wake()
    results = await asyncio.gather(*waits, return_exceptions=True)

    assert [type(result).__name__ for result in results] == [
        "NoneType",
        "CancelledError",
        "NoneType",
    ]
    cancelled = asyncio.create_task(answer.change())
    await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert answer._waiters == []
