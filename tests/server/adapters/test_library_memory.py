"""Who is in host memory, who has to leave it, and who waits for room."""

from __future__ import annotations

import asyncio

import pytest

from lorry_server.adapters.loader import LoaderLimits
from lorry_server.errors import (
    AdapterCapacityError,
    AdapterLoadError,
)
from tests.support.fake_engine import FakeEngine
from tests.support.fake_library import FakeAdapters, fake_library

OLD, NEW, NEWER = "aaaa0000", "bbbb1111", "cccc2222"


async def test_the_least_recently_used_makes_room_and_comes_back_when_it_is_asked_for():
    engine, adapters = FakeEngine(), FakeAdapters()
    library = fake_library(engine, adapters, host_memory_bytes=2500)
    for name, digest in (("a", OLD), ("b", NEW)):
        adapters.put(f"/{name}", digest)
        await library.load(name, f"/{name}", replace=True)
    (await library.acquire("a")).release()
    adapters.put("/c", NEWER)

    await library.load("c", "/c", replace=True)

    assert set(engine.offered) == {OLD, NEWER}
    info = library.find("b")
    assert info is not None
    assert (info.tier, info.state) == ("disk", "known")
    lease = await library.acquire("b")
    assert (lease.digest, lease.tier) == (NEW, "disk")
    assert library.shelf.num_bytes == 2000
    assert library.shelf.num_evictions == 2
    library.check_integrity()


async def test_what_is_in_use_is_not_dropped_and_makes_room_when_its_use_ends():
    engine, adapters = FakeEngine(), FakeAdapters()
    library = fake_library(engine, adapters, host_memory_bytes=2500)
    for name, digest in (("used", OLD), ("pinned", NEW)):
        adapters.put(f"/{name}", digest)
        await library.load(name, f"/{name}", replace=True, pinned=name == "pinned")
    lease = await library.acquire("used")
    adapters.offer("c", NEWER)

    newcomer = asyncio.create_task(library.acquire("c"))
    await until_prepared(adapters, NEWER)
    assert not newcomer.done()
    assert set(engine.offered) == {OLD, NEW}
    lease.release()
    await newcomer

    assert set(engine.offered) == {NEW, NEWER}
    library.check_integrity()


async def until_prepared(adapters: FakeAdapters, digest: str) -> None:
    while digest not in adapters.prepared:  # noqa: ASYNC110 - a thread prepares it
        await asyncio.sleep(0.001)
    for _ in range(10):  # until its load has come back to the loop
        await asyncio.sleep(0.001)


async def test_pinned_adapters_that_leave_no_room_refuse_a_newcomer_at_once():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(adapters=["one"]), adapters, host_memory_bytes=1500)
    adapters.offer("two", NEW)

    with pytest.raises(AdapterCapacityError, match="fill the 1500 bytes"):
        await library.acquire("two")
    library.check_integrity()


async def test_steady_use_of_what_is_there_does_not_keep_a_newcomer_out():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters, host_memory_bytes=2500)
    for name, digest in (("a", OLD), ("b", NEW), ("c", NEWER)):
        adapters.offer(name, digest)
    first = {name: await library.acquire(name) for name in ("a", "b")}
    newcomer = asyncio.create_task(library.acquire("c"))
    await until_prepared(adapters, NEWER)

    # One of the two has to leave: who asks for it now comes after the newcomer.
    held = [name for name in ("a", "b") if library.is_held(name)]
    assert len(held) == 1
    leaving = "b" if held == ["a"] else "a"
    late = asyncio.create_task(library.acquire(leaving))
    (await library.acquire(held[0])).release()
    first[leaving].release()
    got = await newcomer
    assert got.digest == NEWER
    assert not late.done()
    got.release()
    assert (await late).digest == {"a": OLD, "b": NEW}[leaving]

    assert library.shelf.num_bytes <= 2500
    library.check_integrity()


async def test_many_more_adapters_than_fit_under_steady_load_all_get_their_turns():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters, host_memory_bytes=4500)
    for number in range(20):
        adapters.offer(f"a{number}", f"{number:08x}")
    served = [0] * 20

    async def keep_asking(number: int) -> None:
        while served[number] < 3:
            lease = await library.acquire(f"a{number}")
            assert library.shelf.num_bytes <= 4500
            for _ in range(3):
                await asyncio.sleep(0)
            lease.release()
            served[number] += 1

    await asyncio.gather(*(keep_asking(number) for number in range(20) for _ in range(2)))

    assert min(served) >= 3
    assert library.num_leases == 0
    assert not any(version.is_leaving for version in library.shelf)
    library.check_integrity()


async def test_a_newcomer_that_waits_for_room_too_long_is_told():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters, host_memory_bytes=1500, load_timeout_s=0.3)
    for name, digest in (("a", OLD), ("b", NEW)):
        adapters.offer(name, digest)
    lease = await library.acquire("a")

    with pytest.raises(AdapterCapacityError, match=r"no room within 0\.3 s.*host-memory"):
        await library.acquire("b")
    with pytest.raises(AdapterCapacityError, match="has to make room for another"):
        await library.acquire("a")
    lease.release()
    assert (await library.acquire("b")).digest == NEW
    library.check_integrity()


async def test_a_load_that_is_given_up_for_want_of_room_says_so_and_is_no_remembered_failure():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters, host_memory_bytes=1500, load_timeout_s=0.1)
    for name, digest in (("a", OLD), ("b", NEW)):
        adapters.offer(name, digest)
    adapters.put("/c", "cccc0000")
    lease = await library.acquire("a")
    with pytest.raises(AdapterCapacityError):
        await library.acquire("b")
    library_load = asyncio.create_task(library.load("a", "/c", replace=True))
    with pytest.raises(AdapterCapacityError, match="no room"):
        await library_load
    while library.awaited_names() or library.counters.num_failed < 2:  # noqa: ASYNC110 - timers
        await asyncio.sleep(0.005)

    (info,) = [info for info in library.list() if info.name == "a"]
    assert info.error is not None
    assert "no room within 1 s" in info.error
    lease.release()
    assert (await library.acquire("b")).digest == NEW
    library.check_integrity()


async def test_a_load_that_is_withdrawn_while_it_waits_for_room_lets_the_others_stay():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters, host_memory_bytes=1500)
    adapters.offer("a", OLD)
    adapters.put("/b", NEW)
    lease = await library.acquire("a")
    loading = asyncio.create_task(library.load("b", "/b", replace=True))
    async with asyncio.timeout(10):
        while library.is_held("a"):  # noqa: ASYNC110 - until it has to leave
            await asyncio.sleep(0.001)

    library.unload("b")

    with pytest.raises(AdapterLoadError, match="unloaded while"):
        await loading
    assert library.is_held("a")
    lease.release()
    library.check_integrity()


async def test_an_adapter_that_can_never_fit_is_refused_with_both_numbers():
    adapters = FakeAdapters()
    limits = LoaderLimits(device_bytes=1500, host_bytes=10_000)
    library = fake_library(FakeEngine(), adapters, limits=limits)
    adapters.put("/big", OLD, num_bytes=1501)

    with pytest.raises(AdapterLoadError, match=r"1501 bytes.*--adapter-memory allows 1500"):
        await library.load("big", "/big", replace=True)
