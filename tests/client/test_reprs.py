"""What results look like in a shell and in a notebook: short, useful, and without secrets."""

from __future__ import annotations

import re

import pytest

import lorry
from lorry.attempts import Call
from lorry.notebook import generation_html
from lorry.types.adapters import AdapterCard
from tests.support.fake_llm_server import FakeLLMServer
from tests.support.talking_script import Talking


async def test_a_generation_is_one_short_line() -> None:
    async with (
        FakeLLMServer(Talking("Arr" * 100)) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        generation = await client.stream("top secret", adapter="pirate").final()

    shown = repr(generation)
    assert len(shown) < 160
    assert re.match(
        r"Generation\('pirate: ArrArr.*…', pirate, stop, 1 tokens, first after [\d.]+ ms", shown
    )
    assert "secret" not in shown + generation._repr_html_()


async def test_a_token_is_shown_without_its_stamp() -> None:
    assert repr(lorry.Token("a", index=3, t_ns=5)) == "Token('a', index=3)"
    assert repr(lorry.Token("a", 3, 5, id=7, logprob=-0.5)) == (
        "Token('a', index=3, id=7, logprob=-0.500)"
    )


async def test_a_stream_says_how_far_it_is() -> None:
    async with FakeLLMServer(Talking()) as server, lorry.AsyncClient(server.url) as client:
        stream = client.stream("top secret", adapter="pirate", request_id="mine")
        before = repr(stream)
        await stream.final()

    assert before == "TokenStream(pirate, new, 0 tokens, request_id='mine')"
    assert repr(stream) == "TokenStream(pirate, ended, 3 tokens, request_id='mine')"
    assert "pirate: Arr, matey!" in stream._repr_html_()


async def test_an_error_says_which_call_it_was() -> None:
    talking = Talking()
    talking.missing.add("nobody")
    async with FakeLLMServer(talking) as server, lorry.AsyncClient(server.url) as client:
        with pytest.raises(lorry.AdapterNotFound) as caught:
            await client.generate("top secret", adapter="nobody", request_id="mine")

    shown = repr(caught.value)
    assert shown.startswith("AdapterNotFound(\"The model 'nobody' does not exist.")
    assert "request_id='mine', adapter='nobody'" in shown
    assert "secret" not in shown
    assert repr(lorry.ConfigError("odd")) == "ConfigError('odd')"


async def test_a_list_of_adapters_is_a_table() -> None:
    async with FakeLLMServer(Talking()) as server, lorry.AsyncClient(server.url) as client:
        cards = await client.adapters.list()

    assert repr(cards).splitlines()[0].split()[:2] == ["NAME", "STATE"]
    assert cards._repr_html_().count("<tr>") == 3
    assert [card.id for card in cards] == ["pirate", "sql"]


def test_html_escapes_what_came_from_outside() -> None:
    evil = "<script>alert(1)</script>"
    cards = lorry.AdapterCards([AdapterCard(id=evil, source=evil, state=evil)])
    generation = lorry.Generation(
        text=evil,
        finish_reason=evil,
        usage=lorry.Usage(1, 1),
        timing=lorry.Timing(0, 0),
        request_id="r",
        endpoint="http://x",
        adapter=evil,
        tool_calls=(lorry.ToolCall("1", evil, evil),),
    )

    for shown in (cards._repr_html_(), generation_html(generation)):
        assert "<script" not in shown
        assert "&lt;script&gt;" in shown


async def test_a_client_shows_its_limit_and_what_is_going_on() -> None:
    async with (
        FakeLLMServer(Talking()) as server,
        lorry.AsyncClient(server.url, limit=2) as client,
    ):
        idle = repr(client)
        async with client.stream("Hi"):
            busy = repr(client)

    assert idle == f"AsyncClient({server.url!r}, limit=Limit(2))"
    assert busy == f"AsyncClient({server.url!r}, limit=Limit(2), 1 in flight)"


def test_a_client_shows_no_key() -> None:
    for client in (
        lorry.AsyncClient("http://x", api_key="secret"),
        lorry.Client("http://x", api_key="secret"),
    ):
        assert "http://x" in repr(client)
        assert "secret" not in repr(client)


def test_a_request_shows_neither_key_nor_prompt_whoever_prints_it() -> None:
    headers = {"authorization": "Bearer secret"}
    request = lorry.WireRequest("POST", "http://x/v1/completions", headers, b'{"prompt": "secret"}')
    call = Call(
        method="POST",
        path="/v1/completions",
        request_id="r1",
        timeout=lorry.Timeout(),
        retry=lorry.RetryPolicy(),
        headers=headers,
        body=request.body,
    )

    for shown in (request, call):
        assert "/v1/completions" in repr(shown)
        assert "secret" not in repr(shown)
        # what rich prints, which also draws tracebacks with the values of variables
        assert "/v1/completions" in repr(shown.__rich_repr__())
        assert "secret" not in repr(shown.__rich_repr__())
