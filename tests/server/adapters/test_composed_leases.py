"""Leases of compositions: each is made once of its parts, and makes room like any version."""

from __future__ import annotations

import asyncio

import pytest

from lorry_server.adapters.composer import Composer
from lorry_server.errors import NotFoundError
from lorry_server.lora.adapter import Adapter
from tests.support.fake_engine import FakeEngine
from tests.support.fake_library import FakeAdapters, fake_library


class Sum:
    """A recipe of names joined by plus signs."""

    def __init__(self, text: str) -> None:
        self.adapters = tuple(text.split("+"))

    def digest(self, parts: list[str]) -> str:
        return "sum:" + "+".join(parts)


def parse_sum(text: str) -> Sum | None:
    if text.endswith("+"):
        raise ValueError("the last adapter has no name")
    return Sum(text) if "+" in text else None


def compose_sum(adapters: FakeAdapters, recipe: Sum, parts: list[Adapter]) -> Adapter:
    digest = recipe.digest([part.digest for part in parts])
    adapters.put("(made)", digest)
    return adapters.contents["(made)"]


def composing_library(adapters: FakeAdapters, engine: FakeEngine, **settings):
    composer = Composer(parse_sum, lambda recipe, parts: compose_sum(adapters, recipe, parts))
    return fake_library(engine, adapters, loader_options={"composer": composer}, **settings)


async def test_a_composition_is_made_of_its_parts_once():
    engine, adapters = FakeEngine(), FakeAdapters()
    library = composing_library(adapters, engine)
    adapters.offer("sql", "aaaa")
    adapters.offer("law", "bbbb")

    lease = await library.acquire("sql+law")
    again = await library.acquire("sql+law")

    assert lease.digest == again.digest == "sum:aaaa+bbbb"
    assert (lease.name, lease.asked, lease.info.source) == (None, "sql+law", "composed")
    assert lease.waited_ms is not None
    assert again.waited_ms is None
    assert adapters.prepared.count("sum:aaaa+bbbb") == 1
    assert library.num_leases == 2
    lease.release()
    again.release()
    assert "sum:aaaa+bbbb" in engine.offered  # until its room is needed
    library.check_integrity()


async def test_a_composition_in_memory_is_had_at_once_and_without_its_parts():
    engine, adapters = FakeEngine(), FakeAdapters()
    library = composing_library(adapters, engine, host_memory_bytes=3000)
    adapters.offer("sql", "aaaa")
    adapters.offer("law", "bbbb")
    assert not library.is_held("sql+law")
    lease = await library.acquire("sql+law")
    for name in ("tax", "art"):  # the room is that of the composition and these
        adapters.offer(name, f"digest-of-{name}")
        (await library.acquire(name)).release()
    adapters.fetched.clear()

    assert library.is_held("sql+law")
    assert (await library.acquire("sql+law")).digest == lease.digest
    assert adapters.fetched == []
    assert library.find("sql").tier == "disk"
    with pytest.raises(NotFoundError):
        library.is_held("sql+law@ffff")
    library.check_integrity()


async def test_a_composition_follows_its_parts_to_their_new_versions():
    adapters = FakeAdapters()
    library = composing_library(adapters, FakeEngine())
    for name, digest in (("sql", "aaaa"), ("law", "bbbb"), ("sql", "cccc")):
        adapters.put(f"/{name}-{digest}", digest)
        await library.load(name, f"/{name}-{digest}", replace=True)

    assert (await library.acquire("sql+law")).digest == "sum:cccc+bbbb"
    assert (await library.acquire("sql@aaaa+law")).digest == "sum:aaaa+bbbb"


async def test_a_composition_makes_room_like_any_version():
    engine, adapters = FakeEngine(), FakeAdapters()
    library = composing_library(adapters, engine, host_memory_bytes=3000)
    adapters.offer("sql", "aaaa")
    adapters.offer("law", "bbbb")
    (await library.acquire("sql+law")).release()
    adapters.offer("tax", "cccc")
    adapters.offer("art", "dddd")
    for name in ("sql", "law", "tax"):
        (await library.acquire(name)).release()

    assert set(engine.offered) == {"aaaa", "bbbb", "cccc"}
    assert {version.digest for version in library.shelf} == {"aaaa", "bbbb", "cccc"}
    library.check_integrity()


async def test_a_bad_recipe_or_an_unknown_part_is_not_found_and_leaves_no_lease():
    adapters = FakeAdapters()
    library = composing_library(adapters, FakeEngine())
    adapters.offer("sql", "aaaa")

    with pytest.raises(NotFoundError, match="has no name"):
        await library.acquire("sql+")
    with pytest.raises(NotFoundError):
        await library.acquire("sql+nobody")

    assert library.num_leases == 0


async def test_steady_use_of_a_composition_does_not_keep_a_newcomer_out():
    adapters = FakeAdapters()
    library = composing_library(adapters, FakeEngine(), host_memory_bytes=1500)
    for name, digest in (("sql", "aaaa"), ("law", "bbbb"), ("tax", "cccc")):
        adapters.offer(name, digest)
    first = await library.acquire("sql+law")
    newcomer = asyncio.create_task(library.acquire("tax"))
    async with asyncio.timeout(10):
        while library.is_held("sql+law"):  # noqa: ASYNC110 - until it has to leave
            await asyncio.sleep(0.001)

    late = asyncio.create_task(library.acquire("sql+law"))
    await asyncio.sleep(0)
    assert not late.done()
    first.release()
    got = await newcomer
    assert got.digest == "cccc"
    assert not late.done()
    got.release()

    assert (await late).digest == "sum:aaaa+bbbb"
    assert library.num_leases == 1
    library.check_integrity()
