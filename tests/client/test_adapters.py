"""`client.adapters`: what goes out, what comes back, and which error says what."""

from __future__ import annotations

import asyncio

import pytest

import lorry
from lorry.time_left import TimeLeft
from lorry.types.adapters import LoadTimes
from tests.support.fake_adapter_routes import BROKEN, MISSING, FakeAdapterRoutes, card, error
from tests.support.fake_llm_server import FakeLLMServer, ReceivedRequest, Reply


def sent(server: FakeLLMServer) -> list[tuple[str, str]]:
    return [(request.method, request.path) for request in server.requests]


async def test_list_gives_a_card_for_each_name() -> None:
    routes = FakeAdapterRoutes(sql="/adapters/sql", pirate="hf://team/pirate")
    async with FakeLLMServer(routes) as server, lorry.AsyncClient(server.url) as client:
        cards = await client.adapters.list()

    assert [(one.id, one.source, one.rank) for one in cards] == [
        ("sql", "/adapters/sql", 16),
        ("pirate", "hf://team/pirate", 16),
    ]
    assert sent(server) == [("GET", "/v1/adapters")]


async def test_get_gives_one_card_with_all_that_is_known() -> None:
    routes = FakeAdapterRoutes(sql="/adapters/sql")
    async with FakeLLMServer(routes) as server, lorry.AsyncClient(server.url) as client:
        one = await client.adapters.get("sql")

    assert (one.state, one.tier, one.alpha) == ("ready", "device", 32.0)
    assert one.target_modules == ["q_proj", "v_proj"]
    assert one.load_ms == LoadTimes(fetch=0.0, read=12.5, check=3.0, prepare=40.0)


async def test_a_card_of_a_newer_server_may_have_more_fields() -> None:
    routes = FakeAdapterRoutes()
    routes.cards["sql"] = card("sql", "/adapters/sql", colour="blue")
    async with FakeLLMServer(routes) as server, lorry.AsyncClient(server.url) as client:
        assert (await client.adapters.get("sql")).id == "sql"


async def test_an_unknown_name_is_not_found() -> None:
    async with (
        FakeLLMServer(FakeAdapterRoutes()) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        for call in (client.adapters.get, client.adapters.unload, client.adapters.pin):
            with pytest.raises(lorry.AdapterNotFound, match="'sql' does not exist") as caught:
                await call("sql")
            assert caught.value.adapter == "sql"


async def test_load_sends_the_source_and_returns_the_card() -> None:
    routes = FakeAdapterRoutes()
    async with FakeLLMServer(routes) as server, lorry.AsyncClient(server.url) as client:
        one = await client.adapters.load("team/sql", "/adapters/sql", pinned=True)

    assert (one.id, one.state, one.pinned) == ("team/sql", "ready", True)
    assert server.requests[-1].json == {"source": "/adapters/sql", "pinned": True, "preload": True}
    assert sent(server)[-1] == ("PUT", "/v1/adapters/team/sql")


async def test_load_refuses_a_name_that_is_taken() -> None:
    routes = FakeAdapterRoutes(sql="/adapters/old")
    async with FakeLLMServer(routes) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.AdapterExists, match="'sql' already, from /adapters/old"):
            await client.adapters.load("sql", "/adapters/new")

    assert routes.cards["sql"]["source"] == "/adapters/old"


async def test_load_takes_a_taken_name_when_told_to() -> None:
    routes = FakeAdapterRoutes(sql="/adapters/old")
    async with FakeLLMServer(routes) as server, lorry.AsyncClient(server.url) as client:
        one = await client.adapters.load("sql", "/adapters/new", replace=True)

    assert one.source == "/adapters/new"
    assert sent(server) == [("PUT", "/v1/adapters/sql")]


class SlowToAnswer:
    """The adapter routes, each of whose answers takes a while."""

    def __init__(self, routes: FakeAdapterRoutes, *, takes_s: float) -> None:
        self._routes = routes
        self._takes_s = takes_s

    async def __call__(self, request: ReceivedRequest, reply: Reply) -> None:
        await asyncio.sleep(self._takes_s)
        await self._routes(request, reply)


def milliseconds_given(server: FakeLLMServer) -> list[int]:
    return [int(request.headers["x-request-timeout-ms"]) for request in server.requests]


async def test_the_timeout_of_load_is_one_limit_over_both_of_its_requests() -> None:
    script = SlowToAnswer(FakeAdapterRoutes(), takes_s=0.2)
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        await client.adapters.load("sql", "/adapters/sql", timeout=30)

    asked, put = milliseconds_given(server)
    assert 20_000 < asked <= 30_000
    assert put <= asked - 200


async def test_the_timeout_of_prefetch_is_one_limit_over_all_that_it_asks() -> None:
    routes = FakeAdapterRoutes()
    routes.cards["sql"] = card("sql", "/adapters/sql", state="known")
    script = SlowToAnswer(routes, takes_s=0.2)
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        await client.adapters.prefetch(["sql"], timeout=30)

    asked, put = milliseconds_given(server)
    assert 20_000 < asked <= 30_000
    assert put <= asked - 200


def test_what_requests_in_turn_are_given_is_what_those_before_have_left() -> None:
    now = 100.0
    limit = TimeLeft(lorry.Timeout(total=5.0, connect=1.0), clock=lambda: now)
    first = limit.now()
    now = 103.0
    second = limit.now()
    now = 105.0

    assert first == lorry.Timeout(total=5.0, connect=1.0)
    assert second == lorry.Timeout(total=2.0, connect=1.0)
    with pytest.raises(lorry.DeadlineExceeded, match=r"^5 s ran out"):
        limit.now()
    no_limit = lorry.Timeout(total=None)
    assert TimeLeft(no_limit).now() is no_limit


async def test_what_cannot_be_loaded_is_told_in_the_servers_words() -> None:
    async with (
        FakeLLMServer(FakeAdapterRoutes()) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        with pytest.raises(lorry.AdapterInvalid, match="is not a PEFT folder") as caught:
            await client.adapters.load("sql", BROKEN)

    assert caught.value.status == 400


async def test_a_source_where_nothing_is_is_not_found() -> None:
    async with (
        FakeLLMServer(FakeAdapterRoutes()) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        with pytest.raises(lorry.AdapterNotFound, match="nothing is at '/adapters/missing'"):
            await client.adapters.load("sql", MISSING)


async def test_a_request_whose_adapter_cannot_be_loaded_is_told_in_the_servers_words() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        await reply.json(424, error("the hub does not answer", "adapter_load_failed"))

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.AdapterInvalid, match="the hub does not answer") as caught:
            await client.generate("Ahoy", adapter="sql")

    assert caught.value.status == 424
    assert len(server.requests) == 1  # not a failure that may be tried again unasked


async def test_replace_and_unload() -> None:
    routes = FakeAdapterRoutes(sql="/adapters/old")
    async with FakeLLMServer(routes) as server, lorry.AsyncClient(server.url) as client:
        before = await client.adapters.get("sql")
        after = await client.adapters.replace("sql", "/adapters/new")
        await client.adapters.unload("sql")

    assert before.digest != after.digest
    assert routes.cards == {}
    assert sent(server)[-1] == ("DELETE", "/v1/adapters/sql")


async def test_pin_and_unpin_keep_the_source() -> None:
    routes = FakeAdapterRoutes(sql="/adapters/sql")
    async with FakeLLMServer(routes) as server, lorry.AsyncClient(server.url) as client:
        pinned = await client.adapters.pin("sql")
        unpinned = await client.adapters.unpin("sql")

    assert (pinned.pinned, unpinned.pinned) == (True, False)
    assert (pinned.source, unpinned.source) == ("/adapters/sql", "/adapters/sql")


async def test_pin_does_not_load_what_was_not_loaded() -> None:
    routes = FakeAdapterRoutes()
    routes.cards["sql"] = card("sql", "/adapters/sql", state="known")
    async with FakeLLMServer(routes) as server, lorry.AsyncClient(server.url) as client:
        pinned = await client.adapters.pin("sql")

    assert (pinned.pinned, pinned.state) == (True, "known")


async def test_wait_ready_asks_until_the_adapter_is_loaded() -> None:
    routes = FakeAdapterRoutes()
    routes.cards["sql"] = card("sql", "/adapters/sql", state="loading")

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if len(server.requests) == 3:
            routes.cards["sql"] = card("sql", "/adapters/sql")
        await routes(request, reply)

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        one = await client.adapters.wait_ready("sql")

    assert one.state == "ready"
    assert len(server.requests) == 3


async def test_wait_ready_ends_when_the_load_has_failed() -> None:
    routes = FakeAdapterRoutes()
    routes.cards["sql"] = card("sql", "/x", state="failed", error="no adapter_config.json in '/x'")
    async with FakeLLMServer(routes) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.AdapterInvalid, match=r"no adapter_config\.json in '/x'"):
            await client.adapters.wait_ready("sql")


@pytest.mark.parametrize("state", ["loading", "known"])
async def test_wait_ready_says_what_it_waited_for(state: str) -> None:
    routes = FakeAdapterRoutes()
    routes.cards["sql"] = card("sql", "/x", state=state)
    async with FakeLLMServer(routes) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.DeadlineExceeded, match=rf"within 0\.1 s: it is still '{state}'"):
            await client.adapters.wait_ready("sql", timeout=0.1)


async def test_wait_ready_ends_where_the_name_is_unknown() -> None:
    async with (
        FakeLLMServer(FakeAdapterRoutes()) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        with pytest.raises(lorry.AdapterNotFound):
            await client.adapters.wait_ready("sql")


async def test_wait_ready_can_be_cancelled() -> None:
    async def script(request: ReceivedRequest, reply: Reply) -> None:
        asked.set()
        await reply.client_left()

    asked = asyncio.Event()
    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        waiting = asyncio.ensure_future(client.adapters.wait_ready("sql"))
        await asked.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


@pytest.mark.parametrize("name", ["", ".", "..", "../models", "sql/..", "a//b", "/sql"])
async def test_a_name_that_would_be_another_route_is_refused_before_it_is_sent(name: str) -> None:
    async with (
        FakeLLMServer(FakeAdapterRoutes()) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        with pytest.raises(lorry.ConfigError, match="not the name of an adapter"):
            await client.adapters.unload(name)

    assert server.requests == []


@pytest.mark.parametrize("name", ["a b", "a?b=1", "a#b", "a%2Fb", "ü", "%2e%2e"])
async def test_a_strange_name_arrives_as_it_is(name: str) -> None:
    routes = FakeAdapterRoutes(**{name: "/adapters/sql"})
    async with FakeLLMServer(routes) as server, lorry.AsyncClient(server.url) as client:
        assert (await client.adapters.get(name)).id == name
