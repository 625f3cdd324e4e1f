"""The whole LoRA family in compiled steps: the reference's bits on bytes, close to it on floats."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from lorry_server.engine.engine import Engine
from lorry_server.engine.plan import StepPlan, StepResult
from lorry_server.engine.request import Request, SamplingParams
from lorry_server.errors import AdapterError
from lorry_server.lora.adapter import read_adapter
from lorry_server.runner.compiled.rungs import TORCH, available_rungs
from lorry_server.runner.compiled.runner import MAX_LOGITS_ROWS
from tests.support.close_runner import CloseRunner
from tests.support.engines import run_to_end
from tests.support.peft_alone import prompt_of
from tests.support.tiny_adapters import (
    FAMILY,
    family_of,
    write_adapter,
    write_unlike_adapters,
)
from tests.support.tiny_model import write_tiny_model
from tests.support.twin_engine import TwinRunner, make_twin_engine

pytestmark = pytest.mark.skipif(
    available_rungs()[0] == TORCH, reason="this machine has no compiled kernels"
)
FAMILIES = ["llama", "qwen2", "gemma3", "granite", "smollm3"]
EXACT = partial(CloseRunner, atol=2e-4, same_tokens=True)
BF16_MODEL = partial(CloseRunner, spread=0.06, same_tokens=False)


@pytest.fixture(scope="module", params=FAMILIES)
def adapted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Path]]:
    """A model and an adapter of each kind that compiled code serves."""
    folder = write_tiny_model(tmp_path_factory.mktemp("model"), request.param)
    configs = family_of(request.param, is_compiled=True)
    return folder, write_unlike_adapters(folder, tmp_path_factory.mktemp("adapters"), configs)


class RowsCounted(TwinRunner):
    """Knows how many logits rows the largest step had."""

    most_rows = 0

    def run(self, plan: StepPlan) -> StepResult:
        self.most_rows = max(self.most_rows, len(plan.logits.rows_N))
        return super().run(plan)


def run_mixed(engine: Engine, digests: dict[str, str]) -> None:
    """Two requests for each adapter and for none, which come in by threes; some ask for logprobs."""
    choices = [None, *digests] * 2
    for index, name in enumerate(choices):
        params = SamplingParams(
            max_tokens=4,
            temperature=0.0,
            ignore_eos=True,
            num_prompt_logprobs=2 if index % 7 == 0 else None,
            num_logprobs=2 if index % 3 == 0 else None,
        )
        digest = None if name is None else digests[name]
        prompt = tuple(prompt_of(name))[-(5 + 7 * index % 40) :]
        engine.add(Request(f"{index}", prompt, params, adapter=digest))
        if index % 3 == 0:
            engine.step()
    run_to_end(engine)


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_all_kinds_in_one_batch_have_the_bits_of_the_reference(
    adapted: tuple[Path, dict[str, Path]], quantization: str
) -> None:
    folder, paths = adapted
    engine, runner, digests = make_twin_engine(
        folder, adapters=paths, quantization=quantization, num_blocks=256
    )

    run_mixed(engine, digests)

    assert runner.num_steps > 10


def test_more_logits_rows_than_are_computed_at_once_have_the_bits_of_the_reference(
    adapted: tuple[Path, dict[str, Path]],
) -> None:
    folder, paths = adapted
    engine, runner, digests = make_twin_engine(
        folder, adapters=paths, num_blocks=256, max_num_batched_tokens=200, pair=RowsCounted
    )
    assert isinstance(runner, RowsCounted)

    for index, digest in enumerate([None, *digests.values()]):
        params = SamplingParams(
            max_tokens=2, temperature=0.0, ignore_eos=True, num_prompt_logprobs=1
        )
        prompt = tuple(20 + (7 * index + place * place) % 200 for place in range(45))
        engine.add(Request(f"{index}", prompt, params, adapter=digest))
    run_to_end(engine)

    assert runner.most_rows > 2 * MAX_LOGITS_ROWS


@pytest.mark.parametrize(
    ("quantization", "dtype", "pair"),
    [
        ("int8", torch.float32, TwinRunner),
        ("none", torch.float32, EXACT),
        ("none", torch.bfloat16, BF16_MODEL),
    ],
    ids=["int8", "f32", "bf16"],
)
def test_trained_tokens_of_a_tied_head_have_its_lora_as_well(
    tmp_path: Path,
    quantization: str,
    dtype: torch.dtype,
    pair: type[TwinRunner] | partial[CloseRunner],
) -> None:
    folder = write_tiny_model(tmp_path / "model", "smollm3")
    many = {"trainable_token_indices": list(range(15, 215, 5)), "r": 37, "lora_alpha": 74}
    configs = {
        "few": FAMILY["tokens-and-head"],
        "many": FAMILY["tokens-and-head"] | many,
        "scaled": FAMILY["tokens-and-head"] | {"use_dora": True},
    }
    paths = write_unlike_adapters(folder, tmp_path / "adapters", configs)
    engine, runner, digests = make_twin_engine(
        folder,
        adapters=paths,
        quantization=quantization,
        dtype=dtype,
        kv_dtype=torch.int8 if quantization == "int8" else dtype,
        pair=pair,
        num_blocks=256,
    )

    for index, name in enumerate([None, *digests] * 2):
        params = SamplingParams(
            max_tokens=4, temperature=0.0, ignore_eos=True, num_logprobs=5, num_prompt_logprobs=2
        )
        digest = None if name is None else digests[name]
        engine.add(Request(f"{index}", tuple(prompt_of(name))[-30:], params, adapter=digest))
    run_to_end(engine)

    assert runner.num_steps > 5


def test_an_adapter_that_left_a_slot_leaves_nothing_to_the_next(
    adapted: tuple[Path, dict[str, Path]],
) -> None:
    folder, paths = adapted
    engine, _, digests = make_twin_engine(
        folder, adapters=paths, num_blocks=256, adapter_slots=3, num_threads=1
    )

    run_mixed(engine, digests)

    assert engine.residency.counters.evictions > len(paths) - 3


@pytest.mark.parametrize(
    ("dtype", "pair"),
    [(torch.float32, EXACT), (torch.bfloat16, BF16_MODEL)],
    ids=["f32", "bf16"],
)
def test_all_kinds_on_floats_are_close_to_the_reference(
    adapted: tuple[Path, dict[str, Path]], dtype: torch.dtype, pair: partial[CloseRunner]
) -> None:
    folder, paths = adapted
    engine, runner, digests = make_twin_engine(
        folder,
        adapters=paths,
        quantization="none",
        dtype=dtype,
        kv_dtype=dtype,
        pair=pair,
        num_blocks=256,
    )

    run_mixed(engine, digests)

    assert runner.num_steps > 10


def test_what_compiled_code_does_not_do_is_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model")
    adapter = write_adapter(folder, tmp_path / "adapter", seed=1, **FAMILY["linear-saved"])
    _, runner, _ = make_twin_engine(folder)

    with pytest.raises(AdapterError, match=r"self_attn\.o_proj'.*--cpu-kernels torch serves it"):
        runner.compiled.adapters.prepare(read_adapter(adapter))
