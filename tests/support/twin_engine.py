"""An engine whose every step is computed twice, by the reference and by compiled code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from lorry_server.config import default_cache_dir
from lorry_server.engine.block_pool import BlockPool
from lorry_server.engine.engine import Engine
from lorry_server.engine.plan import StepPlan, StepResult
from lorry_server.engine.scheduler import Scheduler
from lorry_server.lora.adapter import Adapter, read_adapter
from lorry_server.lora.pool import AdapterPool
from lorry_server.lora.prepared import DeviceAdapters, PreparedAdapter
from lorry_server.lora.residency import MAX_SLOTS, Residency
from lorry_server.model.decoder import Decoder
from lorry_server.model.load import load_model
from lorry_server.runner.compiled.arithmetic import computes_floats
from lorry_server.runner.compiled.rungs import available_rungs, load_float_kernels, load_kernels
from lorry_server.runner.compiled.runner import CompiledRunner
from lorry_server.runner.kv_cache import KVCache
from lorry_server.runner.reference import ReferenceRunner
from tests.support.engines import make_drafter
from tests.support.tiny_engine import CPU, RecordingModel


@cache
def kernels(rung: str | None = None) -> Callable[[int, int], None]:
    """The kernels of a rung, else of this machine's best one; a process has those of one only."""
    return load_kernels(rung or available_rungs()[0], cache_dir=default_cache_dir(), progress=print)


@cache
def float_kernels(rung: str | None = None) -> int:
    """The kernels for floats of the rung whose other `kernels` are loaded."""
    return load_float_kernels(
        rung or available_rungs()[0], cache_dir=default_cache_dir(), progress=print
    )


class TwinAdapters:
    """Both runners' adapters, as one; bytes are counted as the compiled one's."""

    def __init__(self, reference: DeviceAdapters, compiled: DeviceAdapters) -> None:
        self._reference = reference
        self._compiled = compiled

    def prepare(self, adapter: Adapter) -> PreparedAdapter:
        pair = (self._reference.prepare(adapter), self._compiled.prepare(adapter))
        return replace(pair[1], contents=pair)

    def attach(self, slot: int, prepared: PreparedAdapter) -> None:
        pair = prepared.contents
        assert isinstance(pair, tuple)
        self._reference.attach(slot, pair[0])
        self._compiled.attach(slot, pair[1])

    def detach(self, slot: int) -> None:
        self._reference.detach(slot)
        self._compiled.detach(slot)


class TwinRunner:
    """Runs each plan on both runners and insists on the same bits.

    `model` is the reference's, and records its logits.
    """

    def __init__(
        self, reference: ReferenceRunner, compiled: CompiledRunner, model: RecordingModel
    ) -> None:
        self.num_steps = 0
        self.reference = reference
        self.compiled = compiled
        self.model = model
        self.adapters = TwinAdapters(reference.adapters, compiled.adapters)

    def run(self, plan: StepPlan) -> StepResult:
        self.model.logits.clear()
        expected, result = self.reference.run(plan), self.compiled.run(plan)
        self.compare(expected, result)
        self.num_steps += 1
        return result

    def compare(self, expected: StepResult, result: StepResult) -> None:
        """Fail where the two differ."""
        np.testing.assert_array_equal(result.status_N, expected.status_N)
        np.testing.assert_array_equal(result.token_ids_N, expected.token_ids_N)
        np.testing.assert_array_equal(result.top_ids_NK, expected.top_ids_NK)
        assert result.logprobs_N.tobytes() == expected.logprobs_N.tobytes()
        assert result.top_logprobs_NK.tobytes() == expected.top_logprobs_NK.tobytes()


def make_twin_engine(
    folder: Path,
    *,
    adapters: Mapping[str, Path] | None = None,
    quantization: str = "int8",
    dtype: torch.dtype = torch.float32,
    kv_dtype: torch.dtype = torch.int8,
    pair: Callable[[ReferenceRunner, CompiledRunner, RecordingModel], TwinRunner] = TwinRunner,
    num_blocks: int = 64,
    block_size: int = 16,
    max_num_seqs: int = 32,
    max_num_batched_tokens: int = 64,
    prefix_caching: bool = True,
    speculate: int = 0,
    num_threads: int = 2,
    rung: str | None = None,
    adapter_budget: int | None = None,
    adapter_slots: int = MAX_SLOTS,
) -> tuple[Engine, TwinRunner, dict[str, str]]:
    """The engine, its runner, and the adapters' digests by name.

    All adapters are resident at once, unless `adapter_budget` says how many bytes may be or
    `adapter_slots` how many of them.
    """
    read = {name: read_adapter(path) for name, path in (adapters or {}).items()}
    max_model_len = num_blocks * block_size
    models = []
    for _ in range(2):
        model = load_model(folder, dtype=dtype, device=CPU, quantization=quantization)
        assert isinstance(model, Decoder)
        models.append(model)
    pool = AdapterPool(
        models[0].linears(),
        dtype=dtype,
        device=CPU,
        norms=models[0].norms(),
        embedding=models[0].embedding,
        base=models[0].base_weights,
    )
    arch = models[0].arch
    cache = KVCache(
        num_layers=len(arch.layers),
        num_kv_heads=arch.num_kv_heads,
        head_dim=arch.head_dim,
        num_blocks=num_blocks,
        block_size=block_size,
        dtype=kv_dtype,
        device=CPU,
    )
    compiled = CompiledRunner(
        models[1],
        kernels=kernels(rung) if rung else kernels(),
        float_kernels=float_kernels(rung) if computes_floats(models[1], kv_dtype) else 0,
        num_blocks=num_blocks,
        block_size=block_size,
        max_tokens=max_num_batched_tokens,
        max_model_len=max_model_len,
        num_threads=num_threads,
        kv_dtype=kv_dtype,
    )
    model = RecordingModel(models[0])
    runner = pair(ReferenceRunner(model, cache, pool, device=CPU), compiled, model)
    prepared = [runner.adapters.prepare(adapter) for adapter in read.values()]
    if adapter_budget is None:
        adapter_budget = sum(one.num_bytes for one in prepared)
    scheduler = Scheduler(
        BlockPool(num_blocks),
        Residency(runner.adapters, budget_bytes=adapter_budget, max_slots=adapter_slots),
        block_size=block_size,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        prefix_caching=prefix_caching,
        drafter=make_drafter(speculate, max_model_len=max_model_len),
    )
    engine = Engine(
        scheduler,
        runner,
        block_size=block_size,
        eos_token_ids=(),
        max_model_len=max_model_len,
    )
    for one in prepared:
        engine.offer_adapter(one)
    return engine, runner, {name: adapter.digest for name, adapter in read.items()}
