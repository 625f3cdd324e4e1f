"""The composition root: from a `ServerConfig` to a running engine. It alone knows every class."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from lorry_server.adapters.checks import AdapterChecks
from lorry_server.adapters.library import AdapterLibrary
from lorry_server.build_library import build_library
from lorry_server.build_runner import block_bytes, build_runner, choose_runner
from lorry_server.config import ServerConfig
from lorry_server.engine.block_pool import BlockPool
from lorry_server.engine.client import EngineInfo
from lorry_server.engine.drafting import Drafter
from lorry_server.engine.engine import Engine
from lorry_server.engine.fairness import make_policy
from lorry_server.engine.scheduler import Scheduler
from lorry_server.engine.service import EngineService
from lorry_server.errors import StartupError
from lorry_server.lora.model_facts import layers_of, read_model_facts
from lorry_server.lora.residency import Residency
from lorry_server.model.causal_model import CausalModel
from lorry_server.model.hf_config import read_config as read_model_config
from lorry_server.model.load import load_model
from lorry_server.model.source import ModelSource, resolve_model
from lorry_server.text.chat_template import ChatTemplate, special_tokens_in
from lorry_server.text.tokenizer import Tokenizer

MAX_DEFAULT_CPU_KV_BYTES = 2 << 30
MAX_DEFAULT_ADAPTER_BYTES = 2 << 30
DEFAULT_BATCHED_TOKENS = {"cpu": 256, "cuda": 2048}


@dataclass(frozen=True, slots=True)
class BuiltServer:
    """What the HTTP side is made from. `engine` belongs to `service` once that is started."""

    engine: Engine
    service: EngineService
    library: AdapterLibrary
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None


def build_server(config: ServerConfig, *, progress: Callable[[str], None]) -> BuiltServer:
    """Find and load the model and its adapters, and put an engine around them.

    `progress` gets a line for whatever takes a while. Raises StartupError (or its subclasses
    ModelError and AdapterError) with a sentence that says what to change.
    """
    device = _device(config)
    source = resolve_model(config.model, cache_dir=config.cache_dir, progress=progress)
    quantization = _quantization(config, device)
    dtype = _dtype(config, device, source)
    progress(f"loading {source.model_id} ({quantization} weights, {_name(dtype)}, {device})")
    tokenizer = Tokenizer.from_folder(source.path)
    model = load_model(
        source.path,
        dtype=dtype,
        device=device,
        quantization=quantization,
        max_position=config.max_model_len,
    )
    chat_template = ChatTemplate.from_folder(source.path)
    checks = AdapterChecks(
        model=read_model_facts(
            source.path,
            model_id=source.model_id,
            dtype=_name(dtype),
            layers=layers_of(model.linears()),
        ),
        chat_template=chat_template,
        special_tokens=special_tokens_in(source.path),
        allow_partial=config.allow_partial_adapters,
    )
    kv_dtype = _kv_dtype(config, quantization, dtype=dtype, device=device)
    choice = choose_runner(config, model, device=device, kv_dtype=kv_dtype)
    num_blocks, max_model_len = _size_cache(
        config,
        model,
        device=device,
        block_bytes=block_bytes(choice, model, block_size=config.block_size, kv_dtype=kv_dtype),
    )
    max_num_batched_tokens = config.max_num_batched_tokens or max(
        DEFAULT_BATCHED_TOKENS[device.type], config.max_num_seqs
    )
    runner = build_runner(
        config,
        choice,
        model,
        num_blocks=num_blocks,
        max_tokens=max_num_batched_tokens,
        max_model_len=max_model_len,
        kv_dtype=kv_dtype,
        dtype=dtype,
        device=device,
        progress=progress,
    )
    adapter_budget_bytes = config.adapter_memory_bytes or _default_adapter_bytes(device)
    scheduler = Scheduler(
        BlockPool(num_blocks),
        Residency(runner.adapters, budget_bytes=adapter_budget_bytes),
        block_size=config.block_size,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        prefix_caching=config.prefix_caching,
        policy=make_policy(config.scheduling, full_step=max_num_batched_tokens),
        drafter=Drafter(max_draft_tokens=config.speculate, max_model_len=max_model_len)
        if config.speculate
        else None,
    )
    engine = Engine(
        scheduler,
        runner,
        block_size=config.block_size,
        eos_token_ids=tokenizer.eos_token_ids,
        max_model_len=max_model_len,
    )
    info = EngineInfo(
        model_id=config.served_model_name or source.model_id,
        model_path=str(source.path),
        architecture=(read_model_config(source.path).get("architectures") or ["unknown"])[0],
        dtype=_name(dtype),
        device=device.type,
        quantization=quantization,
        max_model_len=max_model_len,
        logits_width=model.vocab_size,
        eos_token_ids=tokenizer.eos_token_ids,
        block_size=config.block_size,
        num_blocks=num_blocks,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_queued_requests=config.max_queued_requests,
        adapter_budget_bytes=adapter_budget_bytes,
    )
    service = EngineService(engine, info)
    return BuiltServer(
        engine=engine,
        service=service,
        library=build_library(config, service, runner.adapters, checks, progress=progress),
        tokenizer=tokenizer,
        chat_template=chat_template,
    )


def _device(config: ServerConfig) -> torch.device:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise StartupError("--device cuda: torch finds no CUDA device here")
    if config.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.device)


def _quantization(config: ServerConfig, device: torch.device) -> str:
    if config.quantization != "auto":
        return config.quantization
    return "int8" if device.type == "cpu" else "none"


def _dtype(config: ServerConfig, device: torch.device, source: ModelSource) -> torch.dtype:
    name = config.dtype
    if name == "auto":
        model_config = read_model_config(source.path)
        own = model_config.get("dtype") or model_config.get("torch_dtype") or "bfloat16"
        name = "float32" if device.type == "cpu" else str(own)
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise StartupError(f"the model's config names the dtype {name!r}, which is not one")
    return dtype


def _kv_dtype(
    config: ServerConfig, quantization: str, *, dtype: torch.dtype, device: torch.device
) -> torch.dtype:
    if config.kv_cache_dtype == "auto":
        return torch.int8 if quantization != "none" and device.type == "cpu" else dtype
    named: torch.dtype = getattr(torch, config.kv_cache_dtype)
    return named


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _size_cache(
    config: ServerConfig, model: CausalModel, *, device: torch.device, block_bytes: int
) -> tuple[int, int]:
    """Blocks of the cache, and the longest sequence: one alone must always fit."""
    budget = config.kv_cache_memory_bytes or _default_kv_bytes(device)
    num_blocks = budget // block_bytes
    if num_blocks < 1:
        raise StartupError(
            f"--kv-cache-memory {budget} holds no block: one of {config.block_size} tokens takes "
            f"{block_bytes} bytes"
        )
    capacity = num_blocks * config.block_size
    if config.max_model_len is None:
        return num_blocks, min(model.max_position, capacity)
    if config.max_model_len > model.max_position:
        raise StartupError(
            f"--max-model-len {config.max_model_len} is more than the model's own limit of "
            f"{model.max_position}"
        )
    if config.max_model_len > capacity:
        raise StartupError(
            f"--max-model-len {config.max_model_len} does not fit the KV cache, which holds "
            f"{capacity} tokens; give --kv-cache-memory at least "
            f"{-(-config.max_model_len // config.block_size) * block_bytes}"
        )
    return num_blocks, config.max_model_len


def _default_kv_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(0.8 * _free_bytes(device))
    return min(_free_bytes(device) // 4, MAX_DEFAULT_CPU_KV_BYTES)


def _default_adapter_bytes(device: torch.device) -> int:
    """Of what the model and the cache have left."""
    return min(_free_bytes(device) // 4, MAX_DEFAULT_ADAPTER_BYTES)


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free
    # macOS knows the memory that there is, but not how much of it is free.
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
