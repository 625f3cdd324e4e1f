"""Which runner serves a model: the fastest rung of the ladder that this machine and model allow."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lorry_server.config import ServerConfig
from lorry_server.errors import StartupError
from lorry_server.lora.pool import AdapterPool
from lorry_server.model.causal_model import CausalModel
from lorry_server.model.decoder import Decoder
from lorry_server.runner.compiled import cache
from lorry_server.runner.compiled.arithmetic import computes_floats
from lorry_server.runner.compiled.decoder_tape import reason_not_to_compile
from lorry_server.runner.compiled.rungs import (
    RUNGS,
    TORCH,
    available_rungs,
    load_float_kernels,
    load_kernels,
)
from lorry_server.runner.compiled.runner import CompiledRunner
from lorry_server.runner.kv_cache import KVCache, bytes_per_block
from lorry_server.runner.reference import ReferenceRunner


@dataclass(frozen=True, slots=True)
class RunnerChoice:
    """`rung` is what computes; `reason` says why it is not a faster one, where there is one."""

    rung: str
    reason: str | None


def choose_runner(
    config: ServerConfig, model: CausalModel, *, device: torch.device, kv_dtype: torch.dtype
) -> RunnerChoice:
    """Raises StartupError where the rung that was asked for cannot serve."""
    if device.type != "cpu":
        return RunnerChoice(TORCH, None)
    rungs = available_rungs()
    asked = config.cpu_kernels
    if asked not in ("auto", *rungs):
        raise StartupError(
            f"--cpu-kernels {asked}: this machine has {', '.join(rungs)} of {', '.join(RUNGS)}"
        )
    reason = _reason_for_torch(config, model, kv_dtype)
    if reason is not None and asked not in ("auto", TORCH):
        raise StartupError(f"--cpu-kernels {asked}: {reason}; use auto or torch")
    if asked != "auto":
        return RunnerChoice(asked, None)
    return RunnerChoice(rungs[0], None) if reason is None else RunnerChoice(TORCH, reason)


def block_bytes(
    choice: RunnerChoice, model: CausalModel, *, block_size: int, kv_dtype: torch.dtype
) -> int:
    """Bytes of a block of the cache of the chosen runner."""
    if choice.rung == TORCH:
        return bytes_per_block(
            num_layers=model.num_layers,
            num_kv_heads=model.num_kv_heads,
            head_dim=model.head_dim,
            block_size=block_size,
            dtype=kv_dtype,
        )
    return cache.bytes_per_block(
        num_layers=model.num_layers,
        num_kv_heads=model.num_kv_heads,
        head_dim=model.head_dim,
        block_size=block_size,
        dtype=kv_dtype,
    )


def build_runner(
    config: ServerConfig,
    choice: RunnerChoice,
    model: CausalModel,
    *,
    num_blocks: int,
    max_tokens: int,
    max_model_len: int,
    kv_dtype: torch.dtype,
    dtype: torch.dtype,
    device: torch.device,
    progress: Callable[[str], None],
) -> ReferenceRunner | CompiledRunner:
    """The runner with its cache. A compiled one takes over the model's weights."""
    num_cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    num_threads = min(config.threads or num_cores, num_cores)
    if choice.rung != TORCH:
        assert isinstance(model, Decoder)
        kernels = load_kernels(choice.rung, cache_dir=config.cache_dir, progress=progress)
        float_kernels = 0
        if computes_floats(model, kv_dtype):
            float_kernels = load_float_kernels(
                choice.rung, cache_dir=config.cache_dir, progress=progress
            )
        progress(f"computing with {choice.rung} kernels on {num_threads} threads")
        return CompiledRunner(
            model,
            kernels=kernels,
            float_kernels=float_kernels,
            num_blocks=num_blocks,
            block_size=config.block_size,
            max_tokens=max_tokens,
            max_model_len=max_model_len,
            num_threads=num_threads,
            kv_dtype=kv_dtype,
        )
    why = f", which is slower here: {choice.reason}" if choice.reason is not None else ""
    progress(f"computing with torch{why}")
    return ReferenceRunner(
        model,
        KVCache(
            num_layers=model.num_layers,
            num_kv_heads=model.num_kv_heads,
            head_dim=model.head_dim,
            num_blocks=num_blocks,
            block_size=config.block_size,
            dtype=kv_dtype,
            device=device,
        ),
        AdapterPool(
            model.linears(),
            dtype=dtype,
            device=device,
            norms=model.norms(),
            embedding=model.embedding,
            base=model.base_weights,
        ),
        device=device,
        num_threads=num_threads,
    )


def _reason_for_torch(
    config: ServerConfig, model: CausalModel, kv_dtype: torch.dtype
) -> str | None:
    """What the compiled kernels do not do."""
    if not isinstance(model, Decoder):
        return "the model runs on transformers' own code"
    if available_rungs() == (TORCH,):
        return "there are kernels for Linux on x86-64 with AVX2 only"
    if kv_dtype not in cache.KV_DTYPES:
        return f"the KV cache is {str(kv_dtype).removeprefix('torch.')}"
    if config.block_size % cache.RUN:
        return f"--block-size {config.block_size} is not a multiple of {cache.RUN}"
    return reason_not_to_compile(model)
