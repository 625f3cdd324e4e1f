"""A contract's defaults and its ceiling, on the requests of each API."""

from __future__ import annotations

import pytest

from lorry.types.chat import ChatMessage, ChatRequest
from lorry.types.completions import CompletionRequest
from lorry.types.contract import SamplingDefaults
from lorry.types.lorax import GenerateParameters
from lorry_server.adapters.contract import Contract
from lorry_server.adapters.info import AdapterFacts, AdapterInfo
from lorry_server.adapters.lease import AdapterLease
from lorry_server.errors import RequestError
from lorry_server.http.contract_defaults import (
    apply_contract,
    apply_contract_to_generate,
    check_ceiling,
    default_max_tokens,
)

CONTRACT = Contract(
    sampling=SamplingDefaults(
        temperature=0.7, top_p=0.9, top_k=40, min_p=0.05, repetition_penalty=1.1
    ),
    stop=("END",),
    max_tokens=64,
    max_tokens_ceiling=256,
)


def test_a_request_that_says_nothing_gets_the_contracts_sampling() -> None:
    request = apply_contract(CompletionRequest(model="pirate", prompt="Ahoy"), CONTRACT)

    assert (request.temperature, request.top_p, request.top_k) == (0.7, 0.9, 40)
    assert (request.min_p, request.repetition_penalty) == (0.05, 1.1)
    assert request.stop == ["END"]
    assert request.max_tokens is None


def test_a_requests_own_values_win() -> None:
    request = ChatRequest(
        model="pirate",
        messages=[ChatMessage(role="user", content="Ahoy")],
        temperature=0.0,
        top_k=-1,
        stop=[],
    )

    applied = apply_contract(request, CONTRACT)

    assert (applied.temperature, applied.top_k, applied.stop) == (0.0, -1, [])
    assert applied.top_p == 0.9
    assert applied.messages == request.messages


def test_the_request_that_came_in_is_not_changed() -> None:
    request = CompletionRequest(model="pirate", prompt="Ahoy")

    apply_contract(request, CONTRACT)

    assert request.temperature is None


def test_without_a_contract_a_request_stays_what_it_is() -> None:
    request = CompletionRequest(model="pirate", prompt="Ahoy")
    parameters = GenerateParameters()

    assert apply_contract(request, None) is request
    assert apply_contract_to_generate(parameters, None) is parameters


def test_loraxs_parameters_get_the_contracts_sampling_and_draw() -> None:
    applied = apply_contract_to_generate(GenerateParameters(do_sample=False), CONTRACT)

    assert (applied.temperature, applied.top_p, applied.top_k) == (0.7, 0.9, 40)
    assert applied.repetition_penalty == 1.1
    assert applied.do_sample is True


def test_loraxs_parameters_win_where_they_say_something() -> None:
    applied = apply_contract_to_generate(GenerateParameters(temperature=0.0), CONTRACT)

    assert applied.temperature == 0.0
    assert not applied.do_sample


def test_a_contract_that_wants_no_drawing_asks_lorax_for_none() -> None:
    greedy = Contract(sampling=SamplingDefaults(temperature=0.0, top_k=0))

    applied = apply_contract_to_generate(GenerateParameters(), greedy)

    assert (applied.temperature, applied.top_k, applied.do_sample) == (0.0, None, None)


@pytest.mark.parametrize(
    ("own", "ceiling", "default", "expected"),
    [
        (64, 256, 16, 64),
        (64, None, None, 64),
        (None, 256, 16, 16),
        (None, 8, 16, 8),
        (None, 256, None, 256),
        (None, None, 16, 16),
        (None, None, None, None),
    ],
)
def test_a_request_without_a_limit_gets_the_contracts_or_the_routes_within_the_ceiling(
    own: int | None, ceiling: int | None, default: int | None, expected: int | None
) -> None:
    contract = Contract(max_tokens=own, max_tokens_ceiling=ceiling)

    assert default_max_tokens(contract, default) == expected
    assert default_max_tokens(None, default) == default


def test_more_than_the_ceiling_is_refused_with_both_numbers() -> None:
    with pytest.raises(RequestError, match=r"`max_tokens`.*at most 256.*pirate.*257") as refused:
        check_ceiling(257, lease_of(CONTRACT), param="max_tokens")

    assert (refused.value.status, refused.value.param) == (400, "max_tokens")
    check_ceiling(256, lease_of(CONTRACT), param="max_tokens")
    check_ceiling(None, lease_of(CONTRACT), param="max_tokens")
    check_ceiling(10_000, lease_of(None), param="max_tokens")
    check_ceiling(10_000, None, param="max_tokens")


def lease_of(contract: Contract | None) -> AdapterLease:
    facts = AdapterFacts("d1", 8, 16.0, ("q_proj",), 1000, contract=contract)
    info = AdapterInfo(name="pirate", source="/adapters/pirate", state="ready", facts=facts)
    return AdapterLease("pirate", "pirate", info, facts, "host", lambda: None)
