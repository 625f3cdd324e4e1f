"""What a load declares of itself, by which its run is judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lorry_loadtest.adapter_mix import AdapterMix, Adapters, mix_of
from lorry_loadtest.arrivals import TraceArrivals, parse_arrival
from lorry_loadtest.catalog import Catalog
from lorry_loadtest.declared import declared_load
from lorry_loadtest.endpoint import parse_endpoint
from lorry_loadtest.engine import Engine
from lorry_loadtest.lengths import Lengths
from lorry_loadtest.limits import Limits
from lorry_loadtest.prompts import Prompts, PromptSource
from lorry_loadtest.run_facts import DeclaredLoad
from lorry_loadtest.run_state import RunState
from lorry_loadtest.settings import LoadSettings
from lorry_loadtest.wire import Wire
from lorry_loadtest.workload import Variant
from tests.support.fake_locust import FakeEnvironment
from tests.support.load_settings import LOAD

SETTINGS = replace(
    LOAD,
    arrival=parse_arrival("poisson:10"),
    adapters=mix_of(["a", "b"]),
    prompts=Prompts.random(40),
    lengths=Lengths.const(8),
)


def declared(settings: LoadSettings) -> DeclaredLoad:
    engine = Engine(
        settings,
        run=RunState(),
        catalog=Catalog("base", ("a", "b")),
        wire=Wire(endpoint=parse_endpoint("http://127.0.0.1:1"), base_model="base"),
        limits=Limits(),
        environment=FakeEnvironment(),
    )
    return declared_load(engine, until_s=60.0)


@pytest.mark.parametrize(
    ("prompts", "share"),
    [
        (Prompts.random(40), 0.0),
        (Prompts.shared_prefix(prefix=30, unique="5:15", groups=4), 0.75),
        (Prompts.multi_turn(turns=3, words=10, answer_words=20), 0.75),
        (Prompts.fixed("one two", "three"), 1.0),
    ],
)
def test_a_prefix_cache_may_find_what_the_prompts_have_in_common(
    prompts: PromptSource, share: float
) -> None:
    assert declared(replace(SETTINGS, prompts=prompts)).cached_share == pytest.approx(share)


def test_kinds_of_request_count_by_their_words() -> None:
    kinds = (
        Variant(3.0, Prompts.random(10), Lengths.const(8)),
        Variant(1.0, Prompts.shared_prefix(prefix=20, unique=10), Lengths.const(8)),
    )

    assert declared(replace(SETTINGS, variants=kinds)).cached_share == pytest.approx(20 / 60)


def test_canaries_are_repeated_by_design() -> None:
    assert declared(replace(SETTINGS, canary_share=0.2)).cached_share == pytest.approx(0.2)


def test_only_of_drawn_words_it_is_known_how_many_tokens_they_are() -> None:
    assert declared(SETTINGS).counts_tokens
    assert not declared(replace(SETTINGS, prompts=Prompts.fixed("Grüße"))).counts_tokens


def of_trace(text: str, folder: Path) -> DeclaredLoad:
    (folder / "trace").write_text(text)
    arrival = parse_arrival(f"trace:{folder / 'trace'}")
    assert isinstance(arrival, TraceArrivals)
    return declared(replace(SETTINGS, arrival=arrival))


def test_blocks_that_a_trace_repeats_may_be_found(tmp_path: Path) -> None:
    first = '{"timestamp": 0, "input_length": 1000, "output_length": 5, "hash_ids": [1, 2]}\n'
    second = '{"timestamp": 9, "input_length": 600, "output_length": 5, "hash_ids": [1, 3]}\n'

    assert of_trace(first + second, tmp_path).cached_share == pytest.approx(512 / 1600)


def test_adapters_that_sessions_keep_to_have_no_share_of_requests(tmp_path: Path) -> None:
    head = "Timestamp,Session ID,Model,Request tokens,Response tokens,Total tokens,Log Type\n"

    assert of_trace(head + "5,s1,GPT-4,47,18,65,log\n", tmp_path).adapter_shares == {}
    assert declared(SETTINGS).adapter_shares == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize(
    ("arrival", "kind"),
    [("poisson:10", "poisson"), ("constant:1..9x60s", "shape"), ("poisson:2x30s,9x30s", "shape")],
)
def test_steps_and_ramps_are_a_load_that_changes(arrival: str, kind: str) -> None:
    found = declared(replace(SETTINGS, arrival=parse_arrival(arrival)))

    assert found.arrival == kind
    assert (found.arrival_cv is None) == (kind == "shape")


def test_a_mix_by_name_leaves_no_room_for_a_base_share() -> None:
    settings = replace(SETTINGS, adapter_mix="zipf:1.1", base_share=0.2, adapters=None)

    with pytest.raises(ValueError, match=r"a base share of 0\.2 has no place in the adapter mix"):
        settings.workload(Catalog("base", ("a", "b")))


def test_a_mix_of_a_locustfile_is_taken_as_it_is() -> None:
    mix: AdapterMix = Adapters.zipf(["a", None], s=1.0)

    assert replace(SETTINGS, adapters=mix).workload(Catalog("base", ())).adapters is mix
