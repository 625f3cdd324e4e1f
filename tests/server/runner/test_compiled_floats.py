"""Compiled steps over floats: close to the reference, and the same bits in any batch and any cut.

Bounds on logits: absolute with float32, where only the order of sums differs; else a part of the largest
distance of a row's logits from their mean, because a value that falls to the other side of a
rounding moves everything after it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from lorry_server.engine.engine import Engine
from lorry_server.engine.request import Request, SamplingParams
from lorry_server.kernels.cpu import tape as t
from lorry_server.runner.compiled import cache
from lorry_server.runner.compiled.float_cache import FloatCache
from lorry_server.runner.compiled.records import Field
from lorry_server.runner.compiled.rungs import TORCH, available_rungs
from tests.support.close_runner import CloseRunner, RecordingRunner
from tests.support.engines import run_to_end
from tests.support.tiny_adapters import UNLIKE, write_unlike_adapters
from tests.support.tiny_model import FAMILIES, write_tiny_model
from tests.support.twin_engine import make_twin_engine

pytestmark = pytest.mark.skipif(
    available_rungs()[0] == TORCH, reason="this machine has no compiled kernels"
)
LENGTHS = (1, 5, 15, 16, 17, 31, 32, 33, 64, 100)
F32, BF16, INT8 = torch.float32, torch.bfloat16, torch.int8

# What CloseRunner allows.
EXACT = partial(CloseRunner, atol=1e-4, same_tokens=True)
BF16_CACHE = partial(CloseRunner, spread=2e-3, same_tokens=True)
BF16_MODEL = partial(CloseRunner, spread=0.06, same_tokens=False)
# A byte of an activation, a key or a value that is rounded the other way.
BYTES = partial(CloseRunner, spread=0.05, same_tokens=False)
BF16_MODEL_BYTES = partial(CloseRunner, spread=0.1, same_tokens=False)


class SpoiltCache(FloatCache):
    """A cache that was full of NaN before."""

    def fields(self, layer: int) -> dict[int, Field]:
        fields = super().fields(layer)
        for word in (t.KEYS, t.VALUES):
            memory = fields[word]
            assert isinstance(memory, np.ndarray)
            memory[:] = 0xFF  # of either type all bits are a NaN
        return fields


def make_request(
    index: int,
    *,
    adapter: str | None = None,
    max_tokens: int = 5,
    num_prompt_logprobs: int | None = None,
) -> Request:
    length = LENGTHS[index % len(LENGTHS)]
    prompt = tuple((31 * index + 7 * place * place + place) % 250 for place in range(length))
    params = SamplingParams(
        max_tokens=max_tokens,
        temperature=0.0,
        ignore_eos=True,
        num_prompt_logprobs=num_prompt_logprobs,
    )
    return Request(f"{index}", prompt, params, adapter=adapter)


def run_requests(engine: Engine, *, adapters: list[str | None] | None = None) -> None:
    """Ten prompts that come in by threes; of every fifth the prompt's logprobs are wanted."""
    choices = adapters or [None]
    for index in range(10 if len(choices) == 1 else 18):
        engine.add(
            make_request(
                index,
                adapter=choices[index % len(choices)],
                num_prompt_logprobs=2 if index % 5 == 0 else None,
            )
        )
        if index % 3 == 0:
            engine.step()
    run_to_end(engine)


@pytest.mark.parametrize(("dtype", "pair"), [(F32, EXACT), (BF16, BF16_MODEL)], ids=["f32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_close_to_the_reference(
    tmp_path: Path, family: str, dtype: torch.dtype, pair: partial[CloseRunner]
) -> None:
    engine, runner, _ = make_twin_engine(
        write_tiny_model(tmp_path, family),
        quantization="none",
        dtype=dtype,
        kv_dtype=dtype,
        pair=pair,
    )

    run_requests(engine)

    assert runner.num_steps > 5


@pytest.mark.parametrize(
    ("quantization", "dtype", "kv_dtype", "pair"),
    [
        ("none", F32, BF16, BF16_CACHE),
        ("none", F32, INT8, BYTES),
        ("none", BF16, F32, BF16_MODEL),
        ("none", BF16, INT8, BF16_MODEL_BYTES),
        ("int8", F32, F32, BYTES),
        ("int8", F32, BF16, BYTES),
        ("zero-one", F32, F32, BYTES),
        ("int4", F32, BF16, BYTES),
    ],
)
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_weights_and_caches_of_unlike_kinds_are_close_to_the_reference(
    tmp_path: Path,
    family: str,
    quantization: str,
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
    pair: partial[CloseRunner],
) -> None:
    engine, runner, _ = make_twin_engine(
        write_tiny_model(tmp_path, family),
        quantization=quantization,
        dtype=dtype,
        kv_dtype=kv_dtype,
        pair=pair,
    )

    run_requests(engine)

    assert runner.num_steps > 5


@pytest.mark.parametrize(("dtype", "pair"), [(F32, EXACT), (BF16, BF16_MODEL)], ids=["f32", "bf16"])
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
def test_sizes_that_fill_no_register_are_close_to_the_reference(
    tmp_path: Path, overrides: dict[str, object], dtype: torch.dtype, pair: partial[CloseRunner]
) -> None:
    engine, runner, _ = make_twin_engine(
        write_tiny_model(tmp_path, "llama", **overrides),
        quantization="none",
        dtype=dtype,
        kv_dtype=dtype,
        pair=pair,
    )

    run_requests(engine)

    assert runner.num_steps > 5


@pytest.mark.parametrize(("dtype", "pair"), [(F32, EXACT), (BF16, BF16_MODEL)], ids=["f32", "bf16"])
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_unlike_adapters_in_one_batch_are_close_to_the_reference(
    tmp_path: Path, family: str, dtype: torch.dtype, pair: partial[CloseRunner]
) -> None:
    folder = write_tiny_model(tmp_path / "model", family)
    configs = UNLIKE
    if family == "phi3":
        fused = {"r": 40, "lora_alpha": 8, "target_modules": ["qkv_proj", "gate_up_proj"]}
        configs = {"fused": fused}
    paths = write_unlike_adapters(folder, tmp_path / "adapters", configs)
    engine, runner, digests = make_twin_engine(
        folder, adapters=paths, quantization="none", dtype=dtype, kv_dtype=dtype, pair=pair
    )

    run_requests(engine, adapters=[None, *digests.values()])

    assert runner.num_steps > 10


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Path]]:
    """A model with a window and a partial last group of heads, and adapters of it."""
    folder = write_tiny_model(tmp_path_factory.mktemp("model"), "mistral", num_key_value_heads=1)
    names = ("all-r16", "mlp-r7-rslora", "head-r6")
    configs = {name: UNLIKE[name] for name in names}
    return folder, write_unlike_adapters(folder, tmp_path_factory.mktemp("adapters"), configs)


@pytest.mark.parametrize(
    ("quantization", "dtype", "kv_dtype"),
    [
        ("none", F32, F32),
        ("none", BF16, BF16),
        ("none", F32, BF16),
        ("none", BF16, INT8),
        ("int8", F32, BF16),
        ("int8", F32, F32),
    ],
)
def test_logits_have_the_same_bits_alone_in_a_batch_and_in_chunks(
    adapted: tuple[Path, dict[str, Path]],
    quantization: str,
    dtype: torch.dtype,
    kv_dtype: torch.dtype,
) -> None:
    folder, paths = adapted

    def rows(*, is_alone: bool, **options: int) -> list[bytes]:
        engine, runner, digests = make_twin_engine(
            folder,
            adapters=paths,
            quantization=quantization,
            dtype=dtype,
            kv_dtype=kv_dtype,
            pair=RecordingRunner,
            prefix_caching=False,
            **options,
        )
        choices = [None, *digests.values()]
        for index in range(len(LENGTHS)):
            engine.add(make_request(index, adapter=choices[index % len(choices)]))
            if is_alone:
                run_to_end(engine)
        run_to_end(engine)
        assert isinstance(runner, RecordingRunner)
        return sorted(row.tobytes() for row in runner.rows)

    expected = rows(is_alone=True, max_num_batched_tokens=128)

    assert len(set(expected)) == 5 * len(LENGTHS)
    assert rows(is_alone=False, max_num_batched_tokens=64) == expected
    assert (
        rows(is_alone=False, max_num_batched_tokens=19, max_num_seqs=10, num_threads=3) == expected
    )


@pytest.mark.parametrize("kv_dtype", [F32, BF16], ids=["f32", "bf16"])
def test_preemption_drafts_and_the_prefix_cache_are_close_to_the_reference(
    tmp_path: Path, kv_dtype: torch.dtype
) -> None:
    engine, runner, _ = make_twin_engine(
        write_tiny_model(tmp_path),
        quantization="none",
        kv_dtype=kv_dtype,
        num_blocks=12,
        max_num_batched_tokens=32,
        speculate=4,
        pair=EXACT if kv_dtype == F32 else BF16_CACHE,
    )

    for index in [2, 7, 4, 7, 2, 5]:
        request = make_request(index, max_tokens=30)
        engine.add(
            Request(f"{engine.num_steps}-{index}", request.prompt_token_ids, request.sampling)
        )
        engine.step()
    run_to_end(engine)

    assert runner.num_steps > 30


@pytest.mark.parametrize("kv_dtype", [F32, BF16], ids=["f32", "bf16"])
def test_what_another_sequence_left_in_a_block_does_not_show(
    tmp_path: Path, kv_dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "FloatCache", SpoiltCache)
    engine, runner, _ = make_twin_engine(
        write_tiny_model(tmp_path), quantization="none", kv_dtype=kv_dtype, pair=RecordingRunner
    )
    assert isinstance(runner, RecordingRunner)

    for index in range(len(LENGTHS)):
        engine.add(make_request(index))
    run_to_end(engine)

    assert np.isfinite(np.stack(runner.rows)).all()
