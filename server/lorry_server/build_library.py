"""The library of adapters from a `ServerConfig`: its sources, its loader, and what it begins with."""

from __future__ import annotations

import os
from collections.abc import Callable

from lorry_server.adapters.checks import AdapterChecks
from lorry_server.adapters.composer import Composer
from lorry_server.adapters.library import AdapterLibrary
from lorry_server.adapters.loader import AdapterLoader, LoaderLimits
from lorry_server.adapters.recipe import parse_recipe
from lorry_server.adapters.settings import LibrarySettings
from lorry_server.adapters.sources.configured import AllowedSources, ConfiguredSources
from lorry_server.adapters.work_places import WorkPlaces
from lorry_server.config import ServerConfig
from lorry_server.engine.client import EngineClient
from lorry_server.lora.compose import compose
from lorry_server.lora.prepared import DeviceAdapters

# Of the memory on the device, at least. On a CPU both are the same memory, and what is ready to be
# used is in it once.
HOST_FACTOR = 2
MAX_DEFAULT_HOST_BYTES = 4 << 30


def build_library(
    config: ServerConfig,
    engine: EngineClient,
    device: DeviceAdapters,
    checks: AdapterChecks,
    *,
    progress: Callable[[str], None],
) -> AdapterLibrary:
    """Put a library before `engine`, and load what `--adapter` names.

    Raises AdapterError for one that cannot be served.
    """
    info = engine.info
    host_bytes = config.adapter_host_memory_bytes or _default_host_bytes(info.adapter_budget_bytes)
    library = AdapterLibrary(
        AdapterLoader(
            ConfiguredSources(
                AllowedSources(
                    roots=config.adapter_roots,
                    prefixes=config.adapter_sources,
                    folders=tuple(map(str, config.watched_folders)),
                    named=tuple(spec.source for spec in config.adapters),
                    max_adapter_bytes=config.max_adapter_bytes,
                    disk_cache_bytes=config.adapter_disk_cache_bytes,
                ),
                cache_dir=config.cache_dir,
            ),
            device,
            composer=Composer(parse_recipe, compose),
            places=WorkPlaces(config.adapter_load_workers),
            limits=LoaderLimits(device_bytes=info.adapter_budget_bytes, host_bytes=host_bytes),
            allow_partial=config.allow_partial_adapters,
            examine=checks.examine,
            read_contract=checks.read_contract,
        ),
        engine,
        settings=LibrarySettings(
            load_timeout_s=config.adapter_load_timeout_s,
            failure_memory_s=config.adapter_failure_memory_s,
            host_memory_bytes=host_bytes,
            weights={weight.name: weight.weight for weight in config.adapter_weights},
        ),
        reserved=frozenset({info.model_id}),
    )
    for weight in config.adapter_weights:
        if weight.name == info.model_id:
            engine.set_adapter_weight(None, weight.weight)
    for spec in config.adapters:
        progress(f"reading adapter {spec.name} from {spec.source}")
        library.preload(spec.name, spec.source)
    return library


def _default_host_bytes(device_bytes: int) -> int:
    """Room for more than the device has, so that what leaves it need not be read again."""
    quarter = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4
    return max(HOST_FACTOR * device_bytes, min(quarter, MAX_DEFAULT_HOST_BYTES))
