"""Eight adapters of unlike rank and targets and the base, in one batch: each equals PEFT alone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from lorry_server.engine.request import Request, SamplingParams
from tests.support.engines import generated, run_to_end
from tests.support.tiny_adapters import UNLIKE, load_base, write_unlike_adapters
from tests.support.tiny_engine import make_tiny_engine
from tests.support.tiny_model import write_tiny_model

NUM_TOKENS = 12
NAMES = [None, *UNLIKE]
SCARCE = 60  # blocks of four tokens: too few for all sequences at once


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture(scope="module")
def adapters(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_unlike_adapters(folder, tmp_path_factory.mktemp("adapters"))


def prompt_of(name: str | None) -> list[int]:
    """The same beginning for all, so that a prefix shared by mistake would show."""
    rng = random.Random(str(name))
    return list(range(20, 60)) + [rng.randrange(10, 250) for _ in range(rng.randint(3, 20))]


@pytest.fixture(scope="module")
def alone(
    folder: Path, adapters: dict[str, Path]
) -> dict[str | None, tuple[list[int], torch.Tensor]]:
    """Greedy tokens of PEFT for every adapter by itself, and the logits that chose them."""
    results = {}
    for name in NAMES:
        model = load_base(folder)
        if name is not None:
            model = PeftModel.from_pretrained(model, adapters[name]).eval()
        tokens = prompt_of(name)
        num_prompt = len(tokens)
        logits = []
        for _ in range(NUM_TOKENS):
            with torch.inference_mode():
                logits.append(model(torch.tensor([tokens])).logits[0, -1])
            tokens = [*tokens, int(logits[-1].argmax())]
        results[name] = (tokens[num_prompt:], torch.stack(logits))
    return results


def test_the_adapters_change_what_is_generated(
    alone: dict[str | None, tuple[list[int], torch.Tensor]],
) -> None:
    texts = {tuple(tokens) for tokens, _ in alone.values()}

    assert len(texts) == len(NAMES)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="one step of prefill"),
        pytest.param({"max_num_batched_tokens": 32}, id="chunked prefill"),
        pytest.param({"prefix_caching": False}, id="no prefix cache"),
        pytest.param({"num_blocks": SCARCE, "block_size": 4}, id="preemption"),
        pytest.param(
            {
                "num_blocks": SCARCE,
                "block_size": 4,
                "max_num_batched_tokens": 32,
                "prefix_caching": False,
            },
            id="preemption and chunks without a prefix cache",
        ),
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_each_row_of_a_mixed_batch_equals_peft_alone(
    folder: Path,
    adapters: dict[str, Path],
    alone: dict[str | None, tuple[list[int], torch.Tensor]],
    options: dict[str, int],
    seed: int,
) -> None:
    tiny = make_tiny_engine(folder, adapters=adapters, **options)
    order = NAMES * 2
    random.Random(seed).shuffle(order)
    early = []
    for index, name in enumerate(order):
        digest = None if name is None else tiny.digests[name]
        params = SamplingParams(max_tokens=NUM_TOKENS, temperature=0.0)
        tiny.engine.add(Request(f"{index}", tuple(prompt_of(name)), params, adapter=digest))
        if index % 4 == 3:
            early += tiny.engine.step()  # arrivals while others run

    outputs = run_to_end(tiny.engine)

    for index, name in enumerate(order):
        mine = [output for output in early if output.request_id == f"{index}"]
        assert generated(mine + outputs[f"{index}"]) == alone[name][0]
    assert tiny.engine.residency.num_pins == 0
    if options.get("num_blocks") == SCARCE:
        assert tiny.engine.scheduler.counters.num_preemptions > 0


def test_logits_of_a_mixed_batch_equal_peft_alone(
    folder: Path,
    adapters: dict[str, Path],
    alone: dict[str | None, tuple[list[int], torch.Tensor]],
) -> None:
    tiny = make_tiny_engine(folder, adapters=adapters, max_num_batched_tokens=1024)
    params = SamplingParams(max_tokens=NUM_TOKENS, temperature=0.0)
    for name in NAMES:
        digest = None if name is None else tiny.digests[name]
        tiny.engine.add(Request(str(name), tuple(prompt_of(name)), params, adapter=digest))
    run_to_end(tiny.engine)

    rows = torch.stack(tiny.model.logits).view(NUM_TOKENS, len(NAMES), -1)
    for index, name in enumerate(NAMES):
        torch.testing.assert_close(rows[:, index], alone[name][1], atol=1e-3, rtol=0)
