"""Every kind of adapter that PEFT's LoRA has, on many models: alone and in one batch as PEFT alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorry_server.engine.request import Request, SamplingParams
from tests.support.engines import generated, run_to_end
from tests.support.peft_alone import Continuation, continue_alone
from tests.support.tiny_adapters import family_of, write_unlike_adapters
from tests.support.tiny_engine import TinyEngine, make_tiny_engine
from tests.support.tiny_model import write_tiny_model

NUM_TOKENS = 6

Alone = dict[str | None, Continuation]


@pytest.fixture(scope="module", params=["llama", "qwen2", "gemma3", "granite", "smollm3"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / family, family)


@pytest.fixture(scope="module")
def adapters(
    family: str, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    return write_unlike_adapters(folder, tmp_path_factory.mktemp("adapters"), family_of(family))


@pytest.fixture(scope="module")
def alone(folder: Path, adapters: dict[str, Path]) -> Alone:
    names: list[str | None] = [None, *adapters]
    return {
        name: continue_alone(folder, adapters[name] if name else None, name, count=NUM_TOKENS)
        for name in names
    }


def run(tiny: TinyEngine, alone: Alone, names: list[str | None]) -> list[list[int]]:
    """The tokens of requests for these adapters, all in one batch."""
    params = SamplingParams(max_tokens=NUM_TOKENS, temperature=0.0)
    for index, name in enumerate(names):
        digest = None if name is None else tiny.digests[name]
        tiny.engine.add(Request(f"{index}", tuple(alone[name].prompt), params, adapter=digest))
    outputs = run_to_end(tiny.engine)
    return [generated(outputs[f"{index}"]) for index in range(len(names))]


def check(tiny: TinyEngine, alone: Alone, names: list[str | None]) -> None:
    tiny.model.logits.clear()
    tokens = run(tiny, alone, names)

    rows = torch.stack(tiny.model.logits).view(NUM_TOKENS, len(names), -1)
    for index, name in enumerate(names):
        difference = (rows[:, index] - alone[name].logits).abs().max()
        assert difference <= 1e-3, f"{name}: logits differ by {difference}"
        assert tokens[index] == alone[name].tokens, name


def test_every_adapter_changes_the_logits(folder: Path, adapters: dict[str, Path]) -> None:
    base = continue_alone(folder, None, "the same prompt", count=1).logits
    for name, path in adapters.items():
        logits = continue_alone(folder, path, "the same prompt", count=1).logits
        assert (logits - base).abs().max() > 0.1, name


def test_each_row_of_a_mixed_batch_equals_peft_alone(
    folder: Path, adapters: dict[str, Path], alone: Alone
) -> None:
    tiny = make_tiny_engine(
        folder, adapters=adapters, num_blocks=512, max_num_seqs=64, max_num_batched_tokens=4096
    )

    check(tiny, alone, [None, *adapters])


def test_each_adapter_by_itself_equals_peft(
    folder: Path, adapters: dict[str, Path], alone: Alone
) -> None:
    tiny = make_tiny_engine(folder, adapters=adapters)

    for name in adapters:
        check(tiny, alone, [name])
