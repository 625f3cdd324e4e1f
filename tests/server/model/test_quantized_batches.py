"""A quantized model's logits have the same bits alone, in any batch and in any chunks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorry_server.engine.request import Request, SamplingParams
from tests.support.engines import run_to_end
from tests.support.tiny_adapters import write_adapter
from tests.support.tiny_engine import TinyEngine, make_tiny_engine
from tests.support.tiny_model import write_tiny_model

NUM_TOKENS = 6
LENGTHS = (3, 31, 32, 70, 33, 1)
ADAPTERS = {
    "all-r5": {"r": 5, "lora_alpha": 10, "target_modules": "all-linear"},
    "qv-r40": {"r": 40, "lora_alpha": 40, "target_modules": ["q_proj", "v_proj"]},
}
CHOSEN = (None, "all-r5", "qv-r40")


@pytest.fixture(scope="module", params=["llama", "qwen2", "gemma2", "granite"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    parent = tmp_path_factory.mktemp("adapters")
    return {
        name: write_adapter(folder, parent / name, seed=index, **config)
        for index, (name, config) in enumerate(ADAPTERS.items())
    }


def add(tiny: TinyEngine, index: int) -> None:
    name = CHOSEN[index % len(CHOSEN)]
    prompt = tuple((17 * index + 7 * place) % 250 for place in range(LENGTHS[index]))
    params = SamplingParams(max_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True)
    adapter = None if name is None else tiny.digests[name]
    tiny.engine.add(Request(f"{index}", prompt, params, adapter=adapter))


def rows(tiny: TinyEngine) -> list[bytes]:
    """The bits of all logits rows that were made, in an order that says nothing."""
    return sorted(row.numpy().tobytes() for row in tiny.model.logits)


@pytest.mark.parametrize("quantization", ["int8", "int4", "zero-one"])
def test_logits_have_the_same_bits_alone_in_a_batch_and_in_chunks(
    folder: Path, adapters: dict[str, Path], quantization: str
) -> None:
    def engine(**options: int) -> TinyEngine:
        return make_tiny_engine(
            folder,
            adapters=adapters,
            quantization=quantization,
            kv_cache_dtype=torch.int8,
            prefix_caching=False,
            **options,
        )

    alone = engine()
    for index in range(len(LENGTHS)):
        add(alone, index)
        run_to_end(alone.engine)
    expected = rows(alone)
    assert len(set(expected)) == len(LENGTHS) * NUM_TOKENS

    for options in ({}, {"max_num_batched_tokens": 32}):
        mixed = engine(**options)
        for index in range(len(LENGTHS)):
            add(mixed, index)
        run_to_end(mixed.engine)

        assert rows(mixed) == expected
