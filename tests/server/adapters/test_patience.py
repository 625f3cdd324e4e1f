"""Waiting for what may never come, and sharing what several wait for."""

from __future__ import annotations

import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import pytest

from lorry_server.adapters.source import AdapterSourceError
from lorry_server.adapters.sources.flights import Flights
from lorry_server.adapters.sources.patience import FetchCancelledError, Patience
from tests.support.plain_adapters import never


def test_items_come_in_order_and_all_of_them() -> None:
    patience = Patience()

    items = patience.iterate(lambda: (i for i in range(100)), what="x", cancelled=never)
    assert list(items) == list(range(100))


def test_an_answer_or_an_error_is_the_questions_own() -> None:
    patience = Patience()

    assert patience.ask(lambda: 3, what="x", cancelled=never) == 3
    with pytest.raises(ZeroDivisionError):
        patience.ask(lambda: 1 // 0, what="x", cancelled=never)


def test_what_nobody_wants_is_not_begun() -> None:
    begun = threading.Event()

    with pytest.raises(FetchCancelledError):
        Patience().ask(begun.set, what="x", cancelled=lambda: True)
    assert not begun.wait(0.05)


def test_what_never_answers_is_given_up_and_named() -> None:
    released = threading.Event()
    patience = Patience(stall_s=0.1)

    with pytest.raises(AdapterSourceError, match=r"cannot fetch x: nothing has come for 0\.1 s"):
        patience.ask(released.wait, what="x", cancelled=never)
    released.set()


def test_hanging_threads_are_bounded_and_those_that_end_do_not_count() -> None:
    released = threading.Event()
    others = set(threading.enumerate())
    patience = Patience(stall_s=0.6, max_left_behind=2)
    for _ in range(2):
        with pytest.raises(AdapterSourceError, match="nothing has come"):
            patience.ask(released.wait, what="x", cancelled=never)
    with pytest.raises(AdapterSourceError, match="2 earlier fetches hang"):
        patience.ask(lambda: 1, what="x", cancelled=never)

    released.set()
    for thread in set(threading.enumerate()) - others:
        if thread.name == "lorry-adapter-source":
            thread.join()
    assert patience.ask(lambda: 1, what="x", cancelled=never) == 1


def test_a_producer_that_nobody_reads_is_closed() -> None:
    closed = threading.Event()

    def produce() -> Generator[int, None, None]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    items = Patience().iterate(produce, what="x", cancelled=never)
    assert next(items) == 1
    items.close()

    assert closed.wait(20)


def test_one_flight_carries_all_who_ask_meanwhile() -> None:
    flights: Flights[object] = Flights()
    begun, may_land = threading.Event(), threading.Event()
    calls = []

    def work(_: object) -> object:
        calls.append(1)
        begun.set()
        may_land.wait()
        return object()

    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(flights.join, "a", work, cancelled=never)
        begun.wait()
        others = [threads.submit(flights.join, "a", work, cancelled=never) for _ in range(2)]
        may_land.set()
        results = {first.result(), *(other.result() for other in others)}

    assert len(results) == len(calls)  # who came after the landing flew again


def test_an_error_is_shared_and_not_kept() -> None:
    flights: Flights[int] = Flights()

    def fail(_: object) -> int:
        raise AdapterSourceError("no")

    with pytest.raises(AdapterSourceError, match="no"):
        flights.join("a", fail, cancelled=never)
    assert flights.join("a", lambda _: 1, cancelled=never) == 1


def test_work_ends_only_when_everybody_has_left() -> None:
    flights: Flights[int] = Flights()
    begun, first_left, second_left = threading.Event(), threading.Event(), threading.Event()
    seen = []

    def work(is_abandoned: object) -> int:
        assert callable(is_abandoned)
        begun.set()
        while not is_abandoned():
            seen.append((first_left.is_set(), second_left.is_set()))
        raise FetchCancelledError("left")

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(flights.join, "a", work, cancelled=first_left.is_set)
        begun.wait()
        second = threads.submit(flights.join, "a", work, cancelled=second_left.is_set)
        while flights.num_waiting("a") != 2:
            threading.Event().wait(0.001)
        first_left.set()
        while (True, False) not in seen:
            threading.Event().wait(0.001)
        second_left.set()
        for waiting in (first, second):
            with pytest.raises(FetchCancelledError):
                waiting.result()
