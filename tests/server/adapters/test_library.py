"""What a name stands for, and for how long."""

from __future__ import annotations

import asyncio

import pytest

from lorry_server.errors import (
    AdapterError,
    AdapterExistsError,
    AdapterLoadError,
    NotFoundError,
    RequestError,
)
from tests.support.fake_engine import FakeEngine
from tests.support.fake_library import FakeAdapters, fake_library

OLD, NEW, NEWER = "aaaa0000", "bbbb1111", "cccc2222"


async def test_a_loaded_adapter_is_leased_by_its_name():
    engine, adapters = FakeEngine(), FakeAdapters()
    library = fake_library(engine, adapters)
    adapters.put("/a", OLD)

    info = await library.load("sql", "/a", replace=False)
    lease = await library.acquire("sql")

    assert (info.state, info.tier, info.source) == ("ready", "host", "/a")
    assert (lease.name, lease.digest, lease.waited_ms) == ("sql", OLD, None)
    assert list(engine.offered) == [OLD]
    lease.release()
    library.check_integrity()


async def test_a_lease_that_is_released_twice_counts_once():
    library = fake_library(FakeEngine(adapters=["sql"]))
    first, second = await library.acquire("sql"), await library.acquire("sql")

    first.release()
    first.release()

    assert library.num_leases == 1
    second.release()
    library.check_integrity()


async def test_a_replaced_version_stays_for_those_who_run_on_it():
    engine, adapters = FakeEngine(), FakeAdapters()
    library = fake_library(engine, adapters, kept_versions=1)
    adapters.put("/old", OLD)
    adapters.put("/new", NEW)
    await library.load("sql", "/old", replace=False)
    running = await library.acquire("sql")

    await library.load("sql", "/new", replace=True)
    late = await library.acquire("sql")

    assert (running.digest, late.digest) == (OLD, NEW)
    assert set(engine.offered) == {OLD, NEW}
    running.release()
    assert set(engine.offered) == {NEW}
    library.check_integrity()


async def test_an_adapter_unloaded_while_it_is_used_goes_with_its_last_use():
    engine = FakeEngine(adapters=["sql"])
    library = fake_library(engine)
    running = await library.acquire("sql")

    library.unload("sql")

    assert library.find("sql") is None
    with pytest.raises(NotFoundError):
        await library.acquire("sql")
    assert set(engine.offered) == {"digest-of-sql"}
    running.release()
    assert not engine.offered
    assert not list(library.shelf)
    library.check_integrity()


async def test_two_names_for_one_content_are_prepared_once_and_leave_one_by_one():
    engine, adapters = FakeEngine(), FakeAdapters()
    library = fake_library(engine, adapters)
    adapters.put("/a", OLD)
    adapters.put("/copy", OLD)
    await library.load("one", "/a", replace=False)
    await library.load("two", "/copy", replace=False)

    assert adapters.prepared == [OLD]
    library.unload("one")
    assert set(engine.offered) == {OLD}
    library.unload("two")
    assert not engine.offered


async def test_a_name_moves_only_when_its_new_version_is_ready():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters)
    adapters.put("/old", OLD)
    adapters.put("/new", NEW)
    await library.load("sql", "/old", replace=False)
    gate = adapters.gate("/new")
    replacing = asyncio.create_task(library.load("sql", "/new", replace=True))
    await gate.has_been_reached()

    with_old = await library.acquire("sql")
    gate.open()
    await replacing
    with_new = await library.acquire("sql")

    assert (with_old.digest, with_new.digest) == (OLD, NEW)


async def test_a_failed_replacement_leaves_the_name_as_it_was_and_says_why():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters)
    adapters.put("/old", OLD)
    await library.load("sql", "/old", replace=False)
    adapters.errors["/broken"] = AdapterError("tensor 'x' holds NaN")

    with pytest.raises(AdapterLoadError, match="holds NaN"):
        await library.load("sql", "/broken", replace=True)

    info = library.find("sql")
    assert info is not None
    assert (info.state, info.source) == ("ready", "/old")
    assert info.error is not None
    assert "holds NaN" in info.error
    lease = await library.acquire("sql")
    assert lease.digest == OLD


async def test_a_failed_first_load_leaves_no_name_behind():
    library = fake_library(FakeEngine(), FakeAdapters())

    with pytest.raises(AdapterLoadError) as caught:
        await library.load("sql", "/nowhere", replace=False)

    assert caught.value.is_missing
    assert library.list() == ()


async def test_the_replacement_that_was_asked_for_last_wins():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters)
    adapters.put("/slow", OLD)
    adapters.put("/fast", NEW)
    gate = adapters.gate("/slow")
    slow = asyncio.create_task(library.load("sql", "/slow", replace=True))
    await gate.has_been_reached()
    await library.load("sql", "/fast", replace=True)

    gate.open()
    await slow

    assert (await library.acquire("sql")).digest == NEW


async def test_without_replace_a_taken_name_is_refused_even_if_it_is_still_being_loaded():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters)
    adapters.put("/a", OLD)
    gate = adapters.gate("/a")
    first = asyncio.create_task(library.load("sql", "/a", replace=False))
    await gate.has_been_reached()
    second = asyncio.create_task(library.load("sql", "/a", replace=False))
    await asyncio.sleep(0)

    gate.open()
    await first
    with pytest.raises(AdapterExistsError):
        await second


async def test_a_name_whose_load_failed_may_be_taken_by_who_waited():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters)
    adapters.errors["/broken"] = AdapterError("broken")
    adapters.put("/a", OLD)
    gate = adapters.gate("/broken")
    first = asyncio.create_task(library.load("sql", "/broken", replace=False))
    await gate.has_been_reached()
    second = asyncio.create_task(library.load("sql", "/a", replace=False))
    await asyncio.sleep(0)

    gate.open()
    with pytest.raises(AdapterLoadError):
        await first

    assert (await second).source == "/a"


async def test_a_declared_adapter_is_loaded_by_its_first_request():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters)
    adapters.put("/a", OLD)

    info = await library.load("sql", "/a", replace=False, preload=False)
    assert (info.state, info.tier, info.facts) == ("known", None, None)
    assert adapters.fetched == []

    lease = await library.acquire("sql")
    assert (lease.digest, lease.tier) == (OLD, "disk")
    assert lease.waited_ms is not None


async def test_unloading_ends_a_load_that_nobody_will_want():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters)
    adapters.put("/a", OLD)
    gate = adapters.gate("/a")
    loading = asyncio.create_task(library.load("sql", "/a", replace=False))
    await gate.has_been_reached()

    library.unload("sql")
    with pytest.raises(AdapterLoadError, match="unloaded while"):
        await loading
    gate.open()
    lease_of_another = await asyncio.wait_for(load_another(library, adapters), 5)

    assert lease_of_another == NEW
    assert [info.name for info in library.list()] == ["other"]


async def load_another(library, adapters) -> str:
    adapters.put("/b", NEW)
    await library.load("other", "/b", replace=False)
    return (await library.acquire("other")).digest


@pytest.mark.parametrize(
    "name", ["tiny", "..", "a//b", "/etc", "a b", "", "x" * 300, "a\nb", "%2e"]
)
async def test_a_name_that_may_not_be_is_refused_before_anything_is_fetched(name):
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters)

    with pytest.raises(RequestError) as caught:
        await library.load(name, "/a", replace=True)

    assert caught.value.status == 400
    assert adapters.fetched == []


# -- versions


async def test_a_version_is_chosen_by_the_beginning_of_its_digest():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters)
    for source, digest in (("/1", OLD), ("/2", NEW), ("/3", NEWER)):
        adapters.put(source, digest)
        await library.load("sql", source, replace=True)

    assert (await library.acquire("sql")).digest == NEWER
    assert (await library.acquire("sql@cccc")).digest == NEWER
    before = await library.acquire("sql@bbbb1")
    assert (before.digest, before.name, before.asked) == (NEW, "sql", "sql@bbbb1")
    with pytest.raises(NotFoundError, match="Known: cccc2222, bbbb1111"):
        await library.acquire("sql@aaaa")  # two versions are kept


async def test_a_beginning_that_several_versions_share_is_not_enough():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters)
    for source, digest in (("/1", "abcd0"), ("/2", "abcd1")):
        adapters.put(source, digest)
        await library.load("sql", source, replace=True)

    with pytest.raises(NotFoundError, match="several versions"):
        await library.acquire("sql@abcd")
    assert (await library.acquire("sql@abcd0")).digest == "abcd0"


@pytest.mark.parametrize("text", ["sql@", "sql@abc", "sql@ABCD", "sql@xyzw", "sql@../..", "@abcd"])
async def test_what_is_no_beginning_of_a_digest_is_not_found(text):
    library = fake_library(FakeEngine(adapters=["sql"]))

    with pytest.raises(NotFoundError):
        await library.acquire(text)


async def test_a_version_is_never_answered_by_another_one():
    """The old version left memory, and its source holds the new one now."""
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters, host_memory_bytes=1000)
    adapters.put("/a", OLD)
    await library.load("sql", "/a", replace=True)
    adapters.put("/a", NEW)
    await library.load("sql", "/a", replace=True)

    with pytest.raises(AdapterLoadError, match="no longer at its source"):
        await library.acquire("sql@aaaa")
    assert (await library.acquire("sql")).digest == NEW


# -- shares


async def test_a_names_weight_goes_to_the_version_that_it_stands_for():
    engine, adapters = FakeEngine(), FakeAdapters()
    library = fake_library(engine, adapters, kept_versions=1, weights={"sql": 3.0})
    adapters.put("/old", OLD)
    adapters.put("/new", NEW)

    await library.load("law", "/old", replace=True)
    assert engine.weights == {}
    await library.load("sql", "/old", replace=True)
    assert engine.weights == {OLD: 3.0}
    library.unload("law")
    await library.load("sql", "/new", replace=True)

    assert engine.weights == {OLD: 1.0, NEW: 3.0}


async def test_an_adapter_that_fits_the_model_in_part_is_refused_unless_that_is_allowed():
    adapters = FakeAdapters()
    adapters.put("/a", OLD)
    adapters.unmatched[OLD] = ("model.layers.99.q_proj",)
    strict = fake_library(FakeEngine(), adapters)
    lenient = fake_library(FakeEngine(), adapters, loader_options={"allow_partial": True})

    with pytest.raises(AdapterLoadError, match=r"layers\.99\.q_proj.*--allow-partial-adapters"):
        await strict.load("a", "/a", replace=True)
    info = await lenient.load("a", "/a", replace=True)

    assert info.facts is not None
    assert info.facts.unmatched_tensors == ("model.layers.99.q_proj",)


# -- before there is a loop


def test_preloaded_adapters_are_pinned():
    library = fake_library(FakeEngine(adapters=["sql"]))

    (info,) = library.list()
    assert (info.name, info.is_pinned, info.state) == ("sql", True, "ready")


def test_preloading_fails_with_an_adapter_error():
    adapters = FakeAdapters()
    library = fake_library(FakeEngine(), adapters, host_memory_bytes=1500)
    adapters.put("/a", OLD)
    adapters.put("/b", NEW)

    with pytest.raises(AdapterError, match="base model's name"):
        library.preload("tiny/model", "/a")
    with pytest.raises(AdapterError, match="no adapter found"):
        library.preload("a", "/nowhere")
    library.preload("a", "/a")
    with pytest.raises(AdapterError, match="--adapter-host-memory"):
        library.preload("b", "/b")


# -- long life


async def test_a_thousand_loads_replacements_and_unloads_leave_nothing_behind():
    engine, adapters = FakeEngine(), FakeAdapters()
    library = fake_library(engine, adapters, host_memory_bytes=10_000)
    for cycle in range(1000):
        name = f"adapter-{cycle % 50}"
        source, digest = f"/{cycle % 7}", f"{cycle % 7:08x}"
        adapters.put(source, digest)
        await library.load(name, source, replace=True)
        lease = await library.acquire(name)
        assert lease.digest == digest
        if cycle % 3 == 0:
            library.unload(name)
        lease.release()
        if cycle % 100 == 0:
            library.check_integrity()
    for info in library.list():
        library.unload(info.name)

    library.check_integrity()
    assert not engine.offered
    assert not list(library.shelf)
    assert library.shelf.num_bytes == 0
