"""Drafts on a real model, reference runner and paged cache: the same tokens and logprobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lorry_server.engine.outputs import TokenOutput
from lorry_server.engine.request import Request
from lorry_server.runner.compiled.rungs import TORCH, available_rungs
from tests.support.engines import generated, request, run_to_end
from tests.support.tiny_adapters import write_adapter
from tests.support.tiny_engine import TinyEngine, make_tiny_engine
from tests.support.tiny_model import write_tiny_model
from tests.support.twin_engine import make_twin_engine

PHRASE = [40, 41, 42, 43, 44, 45, 46, 47, 48]
PROMPT = PHRASE * 3
EOS = 2

# A random model does not repeat itself; one that may use only a few tokens has to.
FEW_TOKENS = tuple((token_id, 40.0) for token_id in (EOS, 50, 51, 52))

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.7, "seed": 5},
    "filtered": {"temperature": 1.0, "seed": 6, "top_k": 4, "top_p": 0.9, "min_p": 0.02},
    "penalties": {
        "temperature": 0.4,
        "seed": 7,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.1,
        "repetition_penalty": 1.05,
    },
    "all tokens": {"temperature": 0.0, "logit_bias": ()},
    "logprobs": {"temperature": 0.0, "num_logprobs": 3},
    "prompt logprobs": {"temperature": 0.0, "num_prompt_logprobs": 1, "num_logprobs": 1},
    "min tokens": {"temperature": 0.0, "min_tokens": 30, "ignore_eos": False},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture(scope="module")
def adapter(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(
        folder,
        tmp_path_factory.mktemp("adapter") / "all",
        seed=3,
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "v_proj", "up_proj"],
    )


def ask(name: str, prompt: list[int], **options: Any) -> Request:
    return request(name, prompt, **{"max_tokens": 60, "logit_bias": FEW_TOKENS, **options})


def run(tiny: TinyEngine, requests: list[Request]) -> dict[str, list[TokenOutput]]:
    for new in requests:
        tiny.engine.add(new)
    return run_to_end(tiny.engine)


def assert_same(outputs: list[TokenOutput], expected: list[TokenOutput]) -> None:
    assert generated(outputs) == generated(expected)
    assert outputs[-1].finish_reason == expected[-1].finish_reason
    logprobs = [entry for output in outputs for entry in output.logprobs or ()]
    wanted = [entry for output in expected for entry in output.logprobs or ()]
    assert [entry.token_id for entry in logprobs] == [entry.token_id for entry in wanted]
    for entry, other in zip(logprobs, wanted, strict=True):
        assert entry.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert [token_id for token_id, _ in entry.top] == [token_id for token_id, _ in other.top]


@pytest.mark.parametrize("way", WAYS)
def test_one_request_alone_gets_the_same_tokens(folder: Path, way: str) -> None:
    asked = ask("a", PROMPT, **WAYS[way])
    plain = make_tiny_engine(folder, eos_token_ids=(EOS,))
    quick = make_tiny_engine(folder, eos_token_ids=(EOS,), speculate=6)

    assert_same(run(quick, [asked])["a"], run(plain, [asked])["a"])


def test_a_greedy_request_that_repeats_itself_takes_fewer_steps(folder: Path) -> None:
    tiny = make_tiny_engine(folder, speculate=6)

    outputs = run(tiny, [ask("a", PROMPT, temperature=0.0)])["a"]

    assert len(generated(outputs)) == 60
    assert tiny.engine.num_steps < 40
    assert tiny.engine.num_steps + tiny.engine.scheduler.counters.num_accepted_tokens == 60


def test_mixed_requests_with_and_without_an_adapter_get_the_same_tokens(
    folder: Path, adapter: Path
) -> None:
    """Four at a time, prefills beside drafts, shared prefixes, and preemption of the youngest."""
    wholes = []
    for speculate in (0, 5):
        tiny = make_tiny_engine(
            folder,
            adapters={"x": adapter},
            num_blocks=12,
            block_size=16,
            max_num_seqs=4,
            max_num_batched_tokens=40,
            eos_token_ids=(EOS,),
            speculate=speculate,
        )
        requests = [
            ask(
                f"{way} {name}",
                PROMPT[: 20 + place],
                adapter=None if name == "base" else tiny.digests[name],
                **options,
            )
            for place, (way, options) in enumerate(WAYS.items())
            for name in ("base", "x")
        ]
        wholes.append(run(tiny, requests))
        if speculate:
            assert tiny.engine.scheduler.counters.num_accepted_tokens > 50
            assert tiny.engine.scheduler.counters.num_preemptions > 0

    for name, outputs in wholes[1].items():
        assert_same(outputs, wholes[0][name])


def test_an_end_inside_a_guess_ends_the_sequence_there(folder: Path) -> None:
    plain = make_tiny_engine(folder)
    whole = generated(run(plain, [ask("a", PROMPT, temperature=0.0)])["a"])
    for stop in sorted(set(whole)):
        asked = ask("a", PROMPT, temperature=0.0, stop_token_ids=(stop,))
        quick = make_tiny_engine(folder, speculate=8)

        outputs = run(quick, [asked])["a"]

        assert generated(outputs) == whole[: whole.index(stop) + 1]


@pytest.mark.skipif(available_rungs()[0] == TORCH, reason="this machine has no compiled kernels")
def test_with_int8_a_draft_changes_no_bit_of_any_logprob(folder: Path, adapter: Path) -> None:
    """Steps are computed by compiled code and the reference, in other batches than without."""
    wholes = []
    for speculate in (0, 5):
        engine, _, digests = make_twin_engine(
            folder, adapters={"x": adapter}, max_num_seqs=3, speculate=speculate
        )
        for way in ("greedy", "sampled", "penalties"):
            for name in (None, "x"):
                adapter_digest = None if name is None else digests[name]
                every = {"max_tokens": 24, **WAYS[way], "num_logprobs": 2}
                engine.add(ask(f"{way} {name}", PROMPT, adapter=adapter_digest, **every))
        outputs = run_to_end(engine)
        wholes.append(
            {
                name: [entry for output in some for entry in output.logprobs or ()]
                for name, some in outputs.items()
            }
        )
        num_accepted = engine.scheduler.counters.num_accepted_tokens
        assert (num_accepted > 20) == (speculate > 0)

    assert wholes[1] == wholes[0]
