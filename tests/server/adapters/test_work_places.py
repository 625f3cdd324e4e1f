"""Turns of those who compute."""

from __future__ import annotations

import threading

from lorry_server.adapters.work_places import WorkPlaces


def test_a_place_is_free_again_when_its_block_is_left():
    places = WorkPlaces(1)
    for _ in range(3):
        with places.one():
            pass


def test_who_comes_when_all_places_are_taken_waits_for_one():
    places = WorkPlaces(1, hand_over_s=1e6)
    is_inside, may_leave, order = threading.Event(), threading.Event(), []

    def first() -> None:
        with places.one():
            is_inside.set()
            may_leave.wait()
            order.append("first")

    def second() -> None:
        with places.one():
            order.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    is_inside.wait()
    threads[1].start()
    may_leave.set()
    for thread in threads:
        thread.join()

    assert order == ["first", "second"]


def test_who_stays_too_long_is_not_counted_any_more():
    now = [0.0]
    places = WorkPlaces(1, hand_over_s=5.0, clock=lambda: now[0])

    with places.one():
        now[0] = 4.9
        assert places._seconds_until_free() > 0
        now[0] = 5.0
        with places.one():
            now[0] = 6.0
            assert places._seconds_until_free() > 0
    assert places._seconds_until_free() == 0
