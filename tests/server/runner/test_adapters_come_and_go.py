"""Adapters that are attached and detached between steps, on both runners at once.

Each step is computed twice, by the reference and by compiled code, which must have the same bits.
"""

from __future__ import annotations

import random
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lorry_server.engine.engine import Engine
from lorry_server.engine.request import Request, SamplingParams
from lorry_server.lora.adapter import Adapter, read_adapter
from lorry_server.lora.prepared import PreparedAdapter
from lorry_server.runner.compiled.adapter_table import PackedAdapter
from tests.support.close_runner import RecordingRunner
from tests.support.engines import generated, run_to_end
from tests.support.kernel_tape import needs_kernels
from tests.support.tiny_adapters import ATTENTION, MLP, UNLIKE, write_unlike_adapters
from tests.support.tiny_engine import make_tiny_engine
from tests.support.tiny_model import write_tiny_model
from tests.support.twin_engine import TwinRunner, make_twin_engine

CONFIGS = {name: UNLIKE[name] for name in ("all-r16", "head-r6", "down-r1", "ranks")} | {
    "wide": {"r": 70, "lora_alpha": 8, "target_modules": [*ATTENTION, *MLP, "lm_head"]}
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture(scope="module")
def paths(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_unlike_adapters(folder, tmp_path_factory.mktemp("adapters"), CONFIGS)


@pytest.fixture(scope="module")
def adapters(paths: dict[str, Path]) -> dict[str, Adapter]:
    return {name: read_adapter(path) for name, path in paths.items()}


def make_request(name: str, adapter: str | None, *, max_tokens: int = 6) -> Request:
    rng = random.Random(name)
    prompt = tuple(rng.randrange(10, 250) for _ in range(rng.randint(1, 40)))
    params = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    return Request(name, prompt, params, adapter=adapter)


def texts_of(engine: Engine, digests: dict[str, str]) -> dict[str, list[int]]:
    """What the base and each adapter generate, one after the other."""
    found = {}
    for name in [None, *sorted(digests)]:
        engine.add(make_request(str(name), None if name is None else digests[name]))
        found[str(name)] = generated(run_to_end(engine)[str(name)])
    return found


@needs_kernels
@pytest.mark.parametrize("quantization", ["int8", "none"])
def test_logits_have_the_bits_of_adapters_that_were_there_from_the_start(
    folder: Path, paths: dict[str, Path], adapters: dict[str, Adapter], quantization: str
) -> None:
    def rows(*, is_late: bool) -> list[bytes]:
        engine, runner, digests = make_twin_engine(
            folder,
            adapters={} if is_late else paths,
            quantization=quantization,
            kv_dtype=torch.int8 if quantization == "int8" else torch.float32,
            pair=RecordingRunner,
            prefix_caching=False,
            adapter_budget=1 << 30,
        )
        assert isinstance(runner, RecordingRunner)
        engine.add(make_request("base", None, max_tokens=30))
        for name in CONFIGS:
            engine.step()
            if is_late:
                engine.offer_adapter(runner.adapters.prepare(adapters[name]))
            engine.add(make_request(name, adapters[name].digest))
        run_to_end(engine)
        assert is_late == (digests == {})
        return [row.tobytes() for row in runner.rows]

    assert rows(is_late=True) == rows(is_late=False)


@needs_kernels
def test_two_hundred_comings_and_goings_keep_the_bits_of_the_reference(
    folder: Path, paths: dict[str, Path], adapters: dict[str, Adapter]
) -> None:
    """With room for two of five adapters, so that slots change their owners all the time."""
    rng = random.Random(3)
    engine, runner, _ = make_twin_engine(
        folder, adapter_budget=1 << 30, adapter_slots=2, num_blocks=40
    )
    texts: dict[str, list[int]] = {}
    wanted: dict[str, Request] = {}
    alone = make_twin_engine(folder, adapters=paths)[0]
    for step in range(1000):
        name = rng.choice(sorted(CONFIGS))
        digest = adapters[name].digest
        if rng.random() < 0.2:
            engine.withdraw_adapter(digest)
        elif len(list(engine.sequences())) < 6:
            if not engine.residency.is_known(digest):
                engine.offer_adapter(runner.adapters.prepare(adapters[name]))
            used = rng.choice([None, digest, digest])
            request = make_request(f"{step}", used, max_tokens=rng.randint(1, 6))
            assert engine.add(request) is None
            wanted[request.request_id] = request
        for output in engine.step():
            texts[output.request_id] = [*texts.get(output.request_id, []), *output.token_ids]
        engine.check_integrity()
        if engine.residency.counters.attaches >= 200:
            break
    for request_id, outputs in run_to_end(engine).items():
        texts[request_id] = [*texts.get(request_id, []), *generated(outputs)]

    assert engine.residency.counters.attaches >= 200
    assert engine.residency.counters.evictions > 20
    for request_id in rng.sample(sorted(wanted), 12):
        alone.add(wanted[request_id])
        assert generated(run_to_end(alone)[request_id]) == texts[request_id]


def test_the_reference_alone_serves_adapters_that_come_late(
    folder: Path, paths: dict[str, Path], adapters: dict[str, Adapter]
) -> None:
    there = make_tiny_engine(folder, adapters=paths)
    late = make_tiny_engine(folder, adapter_budget=1 << 30)
    base = texts_of(late.engine, {})

    for adapter in adapters.values():
        late.engine.offer_adapter(late.pool.prepare(adapter))

    assert base == {"None": texts_of(there.engine, {})["None"]}
    digests = {name: adapter.digest for name, adapter in adapters.items()}
    assert texts_of(late.engine, digests) == texts_of(there.engine, there.digests)


@needs_kernels
def test_an_adapter_of_a_larger_rank_than_all_before_it_has_the_reference_s_bits(
    folder: Path, adapters: dict[str, Adapter]
) -> None:
    engine, runner, _ = make_twin_engine(folder, adapter_budget=1 << 30)
    for name in ("down-r1", "wide", "all-r16"):
        engine.offer_adapter(runner.adapters.prepare(adapters[name]))
        engine.add(make_request(name, adapters[name].digest, max_tokens=12))
        engine.step()
        engine.step()

    run_to_end(engine)

    assert runner.num_steps > 10


def attach(runner: TwinRunner, slot: int, adapter: Adapter) -> PreparedAdapter:
    prepared = runner.adapters.prepare(adapter)
    runner.adapters.attach(slot, prepared)
    return prepared


@needs_kernels
def test_a_slot_shows_nothing_of_the_adapter_that_was_in_it(
    folder: Path, adapters: dict[str, Adapter]
) -> None:
    """The first one targets everything, the second one layer's k only."""
    weights = {
        name: weights
        for name, weights in adapters["ranks"].modules.items()
        if name == "model.layers.1.self_attn.k_proj"
    }
    small = replace(adapters["ranks"], digest="small", modules=weights)

    def text(*before: Adapter) -> list[int]:
        engine, runner, _ = make_twin_engine(folder, adapter_budget=60_000_000)
        for index, adapter in enumerate((*before, small)):
            engine.offer_adapter(runner.adapters.prepare(adapter))
            engine.add(make_request("a" if adapter is small else f"{index}", adapter.digest))
            output = run_to_end(engine)
            assert engine.residency.slot(adapter.digest) == 0
            engine.withdraw_adapter(adapter.digest)
        return generated(output["a"])

    assert text(adapters["wide"]) == text() == text(adapters["head-r6"], adapters["all-r16"])


@needs_kernels
@pytest.mark.parametrize("quantization", ["int8", "none"])
def test_the_memory_of_an_adapter_is_free_once_it_is_detached_and_dropped(
    folder: Path, adapters: dict[str, Adapter], quantization: str
) -> None:
    kv_dtype = torch.int8 if quantization == "int8" else torch.float32
    _, runner, _ = make_twin_engine(folder, quantization=quantization, kv_dtype=kv_dtype)
    table = runner.compiled.adapters
    prepared = table.prepare(adapters["all-r16"])
    assert isinstance(prepared.contents, PackedAdapter)
    memory = weakref.ref(prepared.contents.memory)
    assert len(prepared.contents.memory) == prepared.num_bytes

    table.attach(3, prepared)
    del prepared
    assert memory() is not None, "a step may read it"
    table.detach(3)

    assert memory() is None


@needs_kernels
def test_an_adapter_costs_its_own_rank_in_its_own_layers(
    folder: Path, adapters: dict[str, Adapter]
) -> None:
    _, runner, _ = make_twin_engine(folder)
    table = runner.compiled.adapters

    sizes = {name: table.prepare(adapter).num_bytes for name, adapter in adapters.items()}

    assert sizes["down-r1"] < 0.2 * sizes["all-r16"] < sizes["all-r16"] < 0.5 * sizes["wide"]
    assert sizes["all-r16"] < 0.5 * adapters["all-r16"].num_bytes, "bytes instead of floats"


@needs_kernels
def test_a_linear_that_no_adapter_of_the_step_targets_has_no_shrink(
    folder: Path, adapters: dict[str, Adapter]
) -> None:
    """Seen by the time that its operations took, which is none at all."""
    engine, runner, _ = make_twin_engine(folder, adapter_budget=1 << 30, num_threads=1)
    for name in ("down-r1", "all-r16"):
        engine.offer_adapter(runner.adapters.prepare(adapters[name]))
    shrinks = ("qkv: shrink", "output: shrink", "gate and up: shrink", "down: shrink")

    def shrunk() -> set[str]:
        before = runner.compiled.phase_seconds()
        run_to_end(engine)
        after = runner.compiled.phase_seconds()
        return {name for name in shrinks if after[name] > 0 and before[name] == 0}

    engine.add(make_request("base", None))
    assert shrunk() == set()
    engine.add(make_request("a", adapters["down-r1"].digest))
    assert shrunk() == {"down: shrink"}
    engine.add(make_request("b", adapters["all-r16"].digest))
    assert shrunk() == set(shrinks) - {"down: shrink"}
