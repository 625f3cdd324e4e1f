"""One load for all who wait, and nobody held up by another's."""

from __future__ import annotations

import asyncio

import pytest

from lorry_server.adapters.source import AdapterSourceError
from lorry_server.errors import (
    AdapterCapacityError,
    AdapterError,
    AdapterLoadError,
    AdapterNotReadyError,
    DrainingError,
    NotFoundError,
)
from tests.support.fake_engine import FakeEngine
from tests.support.fake_library import FakeAdapters, fake_library


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def test_a_name_that_nobody_loaded_is_found_and_loaded_when_it_is_asked_for():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters)
    source = adapters.offer("team/sql", "abcd")

    lease = await library.acquire("team/sql")

    assert (lease.digest, lease.tier) == ("abcd", "disk")
    assert lease.waited_ms is not None
    info = library.find("team/sql")
    assert info is not None
    assert (info.source, info.is_pinned) == (source, False)
    again = await library.acquire("team/sql")
    assert again.waited_ms is None
    assert adapters.fetched == [source]


async def test_a_hundred_first_requests_are_one_load():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters)
    source = adapters.offer("sql", "abcd")
    gate = adapters.gate(source)
    waiting = [asyncio.create_task(library.acquire("sql")) for _ in range(100)]
    await gate.has_been_reached()

    gate.open()
    leases = await asyncio.gather(*waiting)

    assert adapters.fetched == [source]
    assert adapters.prepared == ["abcd"]
    assert library.num_leases == 100
    for lease in leases:
        lease.release()
    library.check_integrity()


async def test_a_waiter_that_leaves_takes_nobody_with_it():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters)
    gate = adapters.gate(adapters.offer("sql", "abcd"))
    leaving, *staying = [asyncio.create_task(library.acquire("sql")) for _ in range(3)]
    await gate.has_been_reached()

    leaving.cancel()
    gate.open()
    leases = await asyncio.gather(*staying)

    assert [lease.digest for lease in leases] == ["abcd", "abcd"]
    assert library.num_leases == 2


async def test_a_load_that_everybody_left_is_kept_for_the_next():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters)
    source = adapters.offer("sql", "abcd")
    gate = adapters.gate(source)
    leaving = asyncio.create_task(library.acquire("sql"))
    await gate.has_been_reached()
    leaving.cancel()
    await asyncio.wait([leaving])

    joined = asyncio.create_task(library.acquire("sql"))
    await asyncio.sleep(0)
    gate.open()

    assert (await joined).digest == "abcd"
    assert adapters.fetched == [source]


async def test_a_lease_given_in_the_moment_of_the_cancellation_goes_back():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters)
    gate = adapters.gate(adapters.offer("sql", "abcd"))
    first = asyncio.create_task(library.acquire("sql"))
    leaving = asyncio.create_task(library.acquire("sql"))
    # It is served behind the first one, in the same turn of the loop, and cancelled before it runs.
    first.add_done_callback(lambda task: leaving.cancel())
    await gate.has_been_reached()

    gate.open()
    lease = await first
    await asyncio.wait([leaving])

    assert library.num_leases == (1 if leaving.cancelled() else 2)
    lease.release()
    library.check_integrity()


async def test_hanging_sources_hold_up_only_those_who_asked_for_them():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters, num_workers=2)
    gates = [adapters.gate(adapters.offer(f"hangs-{i}", f"{i:04x}")) for i in range(20)]
    hanging = [asyncio.create_task(library.acquire(f"hangs-{i}")) for i in range(20)]
    for gate in gates:
        await gate.has_been_reached()

    adapters.offer("sql", "abcd")
    lease = await library.acquire("sql")

    assert lease.digest == "abcd"
    assert not any(task.done() for task in hanging)
    for gate in gates:
        gate.open()
    await asyncio.gather(*hanging)


async def test_an_adapter_that_hangs_while_it_is_prepared_hands_its_place_over():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters, num_workers=1, hand_over_s=0.01)
    adapters.offer("hangs", "0000")
    gate = adapters.gate("0000")
    hanging = asyncio.create_task(library.acquire("hangs"))
    await gate.has_been_reached()

    adapters.offer("sql", "abcd")
    assert (await library.acquire("sql")).digest == "abcd"

    gate.open()
    assert (await hanging).digest == "0000"


async def test_as_many_adapters_are_prepared_at_once_as_there_are_workers():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters, num_workers=2)
    gates = []
    for number in range(3):
        adapters.offer(f"a{number}", f"{number:04x}")
        gates.append(adapters.gate(f"{number:04x}"))
    waiting = [asyncio.create_task(library.acquire(f"a{number}")) for number in range(3)]
    reached = [asyncio.create_task(gate.has_been_reached()) for gate in gates]

    while sum(task.done() for task in reached) < 2:
        await asyncio.wait(reached, return_when=asyncio.FIRST_COMPLETED)
        reached = [task for task in reached if not task.done()] + [t for t in reached if t.done()]
        if sum(task.done() for task in reached) < 2:
            await asyncio.sleep(0)

    assert sum(task.done() for task in reached) == 2
    for gate in gates:
        gate.open()
    await asyncio.gather(*waiting, *reached)


async def test_who_has_waited_too_long_is_told_and_the_load_goes_on():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters, load_timeout_s=0.3)
    source = adapters.offer("sql", "abcd")
    gate = adapters.gate(source)

    with pytest.raises(AdapterNotReadyError, match=r"still being loaded.*after 0\.3 s") as caught:
        await library.acquire("sql")
    assert caught.value.retry_after_s > 0
    joined = asyncio.create_task(library.acquire("sql"))
    await asyncio.sleep(0)
    gate.open()

    assert (await joined).digest == "abcd"
    assert adapters.fetched == [source]


async def test_a_load_that_ends_never_is_given_up_and_tried_again():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters, load_timeout_s=0.15, failure_memory_s=0)
    source = adapters.offer("sql", "abcd")
    adapters.gate(source)
    errors: list[Exception] = []
    while not any(isinstance(error, AdapterLoadError) for error in errors):
        with pytest.raises((AdapterNotReadyError, AdapterLoadError)) as caught:
            await library.acquire("sql")
        errors.append(caught.value)
    assert "gave no adapter within" in str(errors[-1])

    adapters.lift(source)
    assert (await library.acquire("sql")).digest == "abcd"
    assert adapters.fetched == [source, source]
    library.check_integrity()


async def test_more_loads_than_may_run_are_refused_for_now():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters, max_loads=2)
    gates = [adapters.gate(adapters.offer(f"a{i}", f"{i:04x}")) for i in range(2)]
    waiting = [asyncio.create_task(library.acquire(f"a{i}")) for i in range(2)]
    for gate in gates:
        await gate.has_been_reached()
    adapters.offer("sql", "abcd")

    with pytest.raises(AdapterCapacityError, match="2 adapters are being loaded"):
        await library.acquire("sql")
    for gate in gates:
        gate.open()
    await asyncio.gather(*waiting)

    assert (await library.acquire("sql")).digest == "abcd"


async def test_those_who_waited_are_woken_one_in_each_turn_of_the_loop():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters)
    gate = adapters.gate(adapters.offer("sql", "abcd"))
    turn, turns = 0, []

    async def wait() -> None:
        (await library.acquire("sql")).release()
        turns.append(turn)

    async def count_turns() -> None:
        nonlocal turn
        while len(turns) < 20:
            turn += 1
            await asyncio.sleep(0)

    waiting = [asyncio.create_task(wait()) for _ in range(20)]
    await gate.has_been_reached()
    counting = asyncio.create_task(count_turns())
    gate.open()
    await asyncio.gather(counting, *waiting)

    assert len(set(turns)) == 20
    assert library.num_leases == 0


async def test_a_library_that_is_closed_lets_nobody_wait():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(adapters=["law"]), adapters)
    gate = adapters.gate(adapters.offer("sql", "abcd"))
    waiting = asyncio.create_task(library.acquire("sql"))
    await gate.has_been_reached()

    library.close()

    with pytest.raises(DrainingError):
        await waiting
    with pytest.raises(DrainingError):
        await library.acquire("sql")
    with pytest.raises(DrainingError):
        await library.load("tax", "/tax", replace=True)
    assert (await library.acquire("law")).digest == "digest-of-law"
    gate.open()


# -- failures


async def test_a_failure_is_remembered_for_a_while_and_then_tried_again():
    adapters, clock = FakeAdapters(), Clock()
    library = fake_library(FakeEngine(), adapters, clock=clock, failure_memory_s=10)
    source = adapters.offer("sql", "abcd")
    adapters.errors[source] = AdapterError("tensor 'x' has the wrong shape")

    with pytest.raises(AdapterLoadError, match="wrong shape"):
        await library.acquire("sql")
    clock.now_s += 4
    with pytest.raises(AdapterLoadError, match=r"wrong shape.*4\.0 s ago"):
        await library.acquire("sql")
    assert adapters.fetched == [source]

    del adapters.errors[source]
    clock.now_s += 6
    assert (await library.acquire("sql")).digest == "abcd"


async def test_everybody_who_waits_learns_of_the_failure():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters)
    source = adapters.offer("sql", "abcd")
    adapters.errors[source] = AdapterError("broken")
    gate = adapters.gate(source)
    waiting = [asyncio.create_task(library.acquire("sql")) for _ in range(10)]
    await gate.has_been_reached()

    gate.open()
    results = await asyncio.gather(*waiting, return_exceptions=True)

    assert all(isinstance(result, AdapterLoadError) for result in results)
    assert len({id(result) for result in results}) == 10  # an exception belongs to one task
    assert library.num_leases == 0


async def test_loading_by_name_and_source_does_not_wait_for_the_memory_of_a_failure():
    adapters, clock = FakeAdapters(), Clock()
    library = fake_library(FakeEngine(), adapters, clock=clock)
    source = adapters.offer("sql", "abcd")
    adapters.errors[source] = AdapterError("broken")
    with pytest.raises(AdapterLoadError):
        await library.acquire("sql")

    del adapters.errors[source]
    await library.load("sql", source, replace=True)

    assert (await library.acquire("sql")).digest == "abcd"


async def test_what_a_source_turns_out_not_to_have_does_not_exist():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters)
    adapters.found["sql"] = "hf://org/gone"
    adapters.errors["hf://org/gone"] = AdapterSourceError("no such repository", is_missing=True)

    with pytest.raises(NotFoundError, match="no such repository"):
        await library.acquire("sql")
    with pytest.raises(NotFoundError, match="no such repository"):
        await library.acquire("sql")
    assert adapters.fetched == ["hf://org/gone"]


async def test_a_fault_of_our_own_says_nothing_of_what_happened_inside():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters)
    source = adapters.offer("sql", "abcd")
    adapters.errors[source] = ZeroDivisionError("secret")

    with pytest.raises(AdapterLoadError) as caught:
        await library.acquire("sql")

    assert "secret" not in str(caught.value)


async def test_unknown_names_leave_nothing_behind():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters)

    for number in range(300):
        with pytest.raises(NotFoundError):
            await library.acquire(f"unknown-{number}")

    assert library.list() == ()
    assert not list(library.shelf)
    assert len(library._desk._loads) == len(library._desk._running) == 0
    assert len(library._desk._failures) == 0


@pytest.mark.parametrize(
    "name", ["..", "../x", "/etc", "a//b", "%2e%2e", "a\nb", "x" * 300, "", "~/x", "C:\\x", "a/b/c"]
)
async def test_what_cannot_be_a_name_is_never_looked_for(name):
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters)

    with pytest.raises(NotFoundError):
        await library.acquire(name)

    assert adapters.looked_up == []
