"""Compiled steps have the reference's bits: every family, any batch, any cut, any adapters."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorry_server.engine.request import Request, SamplingParams
from lorry_server.runner.compiled.rungs import TORCH, available_rungs
from tests.support.engines import run_to_end
from tests.support.tiny_adapters import UNLIKE, write_unlike_adapters
from tests.support.tiny_model import FAMILIES, write_tiny_model
from tests.support.twin_engine import make_twin_engine

pytestmark = pytest.mark.skipif(
    available_rungs()[0] == TORCH, reason="this machine has no compiled kernels"
)
LENGTHS = (1, 5, 15, 16, 17, 31, 32, 33, 64, 100)
SAMPLING: tuple[dict[str, object], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.0, "num_logprobs": 3},
    {"temperature": 0.9, "seed": 3},
    {"temperature": 0.7, "seed": 5, "top_p": 0.8, "top_k": 20},
    {"temperature": 0.0, "repetition_penalty": 1.3, "num_prompt_logprobs": 2},
)


def prompt(index: int) -> tuple[int, ...]:
    length = LENGTHS[index % len(LENGTHS)]
    return tuple((31 * index + 7 * place * place + place) % 250 for place in range(length))


def make_request(index: int, *, adapter: str | None = None, max_tokens: int = 5) -> Request:
    sampling = SAMPLING[index % len(SAMPLING)]
    params = SamplingParams(max_tokens=max_tokens, ignore_eos=True, **sampling)  # type: ignore[arg-type] # names are checked by the call itself
    return Request(f"{index}", prompt(index), params, adapter=adapter)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_the_bits_of_the_reference(tmp_path: Path, family: str) -> None:
    folder = write_tiny_model(tmp_path, family)
    engine, runner, _ = make_twin_engine(folder)

    for index in range(10):
        engine.add(make_request(index))
    run_to_end(engine)

    assert runner.num_steps > 5


@pytest.mark.parametrize(
    "overrides",
    [
        {"hidden_size": 80, "intermediate_size": 112, "num_attention_heads": 5, "num_key_value_heads": 1},
        {"head_dim": 8, "num_attention_heads": 6, "num_key_value_heads": 6},
        {"head_dim": 72, "num_attention_heads": 8, "num_key_value_heads": 1},
        {"hidden_size": 36, "head_dim": 20, "tie_word_embeddings": True},
    ],
    ids=["odd groups", "small heads", "large heads", "odd sizes"],
)  # fmt: skip
def test_sizes_that_fill_no_register_have_the_bits_of_the_reference(
    tmp_path: Path, overrides: dict[str, object]
) -> None:
    engine, runner, _ = make_twin_engine(write_tiny_model(tmp_path, "llama", **overrides))

    for index in range(6):
        engine.add(make_request(index))
    run_to_end(engine)

    assert runner.num_steps > 5


@pytest.mark.parametrize("quantization", ["int8", "int4", "zero-one"])
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_unlike_adapters_in_one_batch_have_the_bits_of_the_reference(
    tmp_path: Path, family: str, quantization: str
) -> None:
    folder = write_tiny_model(tmp_path / "model", family)
    if family == "phi3":
        names = {
            "fused": {"r": 20, "lora_alpha": 8, "target_modules": ["qkv_proj", "gate_up_proj"]}
        }
    else:
        names = UNLIKE
    paths = write_unlike_adapters(folder, tmp_path / "adapters", names)
    engine, runner, digests = make_twin_engine(folder, adapters=paths, quantization=quantization)
    choices = [None, *digests.values()]

    for index in range(18):
        engine.add(make_request(index, adapter=choices[index % len(choices)]))
        if index % 3 == 0:
            engine.step()
    run_to_end(engine)

    assert runner.num_steps > 10


def test_preemption_drafts_and_the_prefix_cache_change_no_bits(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    engine, runner, _ = make_twin_engine(
        folder, num_blocks=12, max_num_batched_tokens=32, speculate=4
    )

    for index in [2, 7, 4, 7, 2, 5]:
        request = make_request(index, max_tokens=30)
        engine.add(
            Request(f"{engine.num_steps}-{index}", request.prompt_token_ids, request.sampling)
        )
        engine.step()
    run_to_end(engine)

    assert runner.num_steps > 30


def test_the_number_of_threads_changes_no_bits(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    engine, runner, _ = make_twin_engine(folder, num_threads=3)

    for index in range(8):
        engine.add(make_request(index))
    run_to_end(engine)

    assert runner.num_steps > 5
