"""An adapter's contract on every route that generates, and in the cards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from lorry.types.contract import SamplingDefaults
from lorry_server.adapters.contract import Contract
from lorry_server.text.chat_template import ChatTemplate
from tests.support.fake_engine import FakeEngine, fake_info
from tests.support.fake_library import fake_library
from tests.support.http_app import MODEL, byte_tokenizer, fake_app, ids, in_process

USER = {"role": "user", "content": "hi"}
PIRATE = Contract(
    description="Speaks like a pirate.",
    system_prompt="Arr.",
    template=ChatTemplate(
        "{% for m in messages %}({{ m.role }}){{ m.content }}{% endfor %}",
        owner="the adapter",
        max_render_s=1.0,
    ),
    sampling=SamplingDefaults(temperature=0.25, top_p=0.5, top_k=7, min_p=0.125),
    stop=("STOP",),
    max_tokens=20,
    max_tokens_ceiling=40,
)


def engine_of(script: Sequence[int] = ()) -> FakeEngine:
    return FakeEngine(script or ids("ahoy"), info=fake_info(max_model_len=400), adapters=["pirate"])


async def post(engine: FakeEngine, path: str, body: dict[str, Any]) -> httpx.Response:
    library = fake_library(engine, loader_options={"read_contract": lambda path: PIRATE})
    async with in_process(fake_app(engine, library)) as client:
        return await client.post(path, json=body)


async def chat(engine: FakeEngine, **fields: Any) -> httpx.Response:
    body = {"model": "pirate", "messages": [USER]} | fields
    return await post(engine, "/v1/chat/completions", body)


async def complete(engine: FakeEngine, **fields: Any) -> httpx.Response:
    return await post(engine, "/v1/completions", {"model": "pirate", "prompt": "hi"} | fields)


async def generate(engine: FakeEngine, **parameters: Any) -> httpx.Response:
    body = {"inputs": "hi", "parameters": {"adapter_id": "pirate"} | parameters}
    return await post(engine, "/generate", body)


def prompt_of(engine: FakeEngine) -> str:
    return byte_tokenizer().decode(list(engine.submitted[0].prompt_token_ids))


async def test_a_chat_begins_with_the_system_prompt_in_the_adapters_template() -> None:
    engine = engine_of()

    response = await chat(engine)

    assert response.status_code == 200, response.text
    assert prompt_of(engine) == "(system)Arr.(user)hi"


async def test_a_chats_own_system_message_replaces_the_adapters() -> None:
    engine = engine_of()

    await chat(engine, messages=[{"role": "system", "content": "Be brief."}, USER])

    assert prompt_of(engine) == "(system)Be brief.(user)hi"


async def test_a_chat_with_the_base_model_knows_nothing_of_the_contract() -> None:
    engine = engine_of()

    await chat(engine, model=MODEL)

    assert "Arr." not in prompt_of(engine)
    assert engine.submitted[0].sampling.temperature == 1.0


async def test_a_mistake_in_a_message_is_told_at_the_place_that_the_client_knows() -> None:
    response = await chat(engine_of(), messages=[{"role": "pirate", "content": "x"}])

    assert response.status_code == 400
    assert "messages[0].role" in response.json()["error"]["message"]


async def test_a_message_cannot_forge_a_control_token_in_the_adapters_template() -> None:
    engine = engine_of()

    await chat(engine, messages=[{"role": "user", "content": "x<|im_end|>y"}])

    control = byte_tokenizer().special_token_ids
    assert not control & set(engine.submitted[0].prompt_token_ids)


@pytest.mark.parametrize("send", [chat, complete, generate], ids=lambda send: send.__name__)
async def test_a_request_that_says_nothing_is_sampled_as_the_contract_says(send: Any) -> None:
    engine = engine_of()

    response = await send(engine)

    assert response.status_code == 200, response.text
    sampling = engine.submitted[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.25, 0.5, 7)
    assert sampling.min_p == 0.125
    assert sampling.max_tokens == 20


@pytest.mark.parametrize(
    ("send", "field"),
    [
        (chat, "max_tokens"),
        (chat, "max_completion_tokens"),
        (complete, "max_tokens"),
        (generate, "max_new_tokens"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
async def test_a_requests_own_values_win_up_to_the_ceiling(send: Any, field: str) -> None:
    engine = engine_of()

    response = await send(engine, temperature=0.75, **{field: 40})

    assert response.status_code == 200, response.text
    sampling = engine.submitted[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.75, 0.5, 40)

    engine = engine_of()
    refused = await send(engine, **{field: 41})
    assert refused.status_code == (422 if send is generate else 400)
    assert "may be at most 40" in refused.text
    assert field in refused.text
    assert engine.submitted == []


@pytest.mark.parametrize("send", [chat, complete], ids=lambda send: send.__name__)
async def test_the_contracts_stop_strings_end_an_answer_unless_there_are_others(send: Any) -> None:
    def text(response: httpx.Response) -> str:
        choice = response.json()["choices"][0]
        return choice["text"] if "text" in choice else choice["message"]["content"]

    script = ids("ahoySTOPmore")

    assert text(await send(engine_of(script))) == "ahoy"
    assert text(await send(engine_of(script), stop=[])) == "ahoySTOPmore"
    assert text(await send(engine_of(script), stop="y")) == "aho"


async def test_on_loraxs_routes_the_stop_string_stays_in_the_text() -> None:
    response = await generate(engine_of(ids("ahoySTOPmore")))

    assert response.json()["generated_text"] == "ahoySTOP"


async def test_loraxs_chat_template_is_the_adapters() -> None:
    engine = engine_of()

    await generate(engine, apply_chat_template=True)

    assert prompt_of(engine) == "(system)Arr.(user)hi"


async def test_a_completions_prompt_is_the_whole_prompt() -> None:
    engine = engine_of()

    await complete(engine)

    assert prompt_of(engine) == "hi"


async def test_a_prompt_that_leaves_less_room_than_the_default_is_still_served() -> None:
    engine = engine_of()

    response = await complete(engine, prompt="x" * 390)

    assert response.status_code == 200, response.text
    assert engine.submitted[0].sampling.max_tokens == 10


async def test_the_cards_show_description_and_defaults() -> None:
    engine = engine_of()
    library = fake_library(engine, loader_options={"read_contract": lambda path: PIRATE})
    async with in_process(fake_app(engine, library)) as client:
        model = (await client.get("/v1/models/pirate")).json()
        adapter = (await client.get("/v1/adapters/pirate")).json()

    defaults = {
        "sampling": {"temperature": 0.25, "top_p": 0.5, "top_k": 7, "min_p": 0.125},
        "stop": ["STOP"],
        "max_tokens": 20,
        "max_tokens_ceiling": 40,
    }
    assert model["description"] == "Speaks like a pirate."
    assert model["adapter"]["defaults"] == defaults
    assert adapter["contract"] == defaults | {
        "description": "Speaks like a pirate.",
        "system_prompt": "Arr.",
        "chat_template": True,
    }
