"""The import rules of docs/architecture.md, read off the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "lorry": ROOT / "client" / "lorry",
    "lorry_server": ROOT / "server" / "lorry_server",
    "lorry_loadtest": ROOT / "loadtest" / "lorry_loadtest",
}

# What each part of the server may import of the server. Longest name first wins.
SERVER_RULES: dict[str, set[str]] = {
    "errors": set(),
    "log": set(),
    "heap": set(),
    "adapter_flags": set(),
    "config": {"errors", "lora.names", "adapter_flags", "adapters.sources.source_url"},
    "adapters.recipe": {"lora.names"},
    "lora.names": set(),
    "lora.prepared": {"lora.adapter"},  # for its types only
    "lora.residency": {"lora.prepared"},
    "lora.adapter_files": set(),
    "lora.regular_file": {"errors"},
    "adapters": {"adapters", "lora", "engine", "errors"},
    "adapters.contract": {"text", "lora.adapter_files", "errors"},
    "adapters.checks": {"adapters.contract", "lora", "text", "errors"},
    "adapters.check_cli": {"adapters", "config", "errors", "lora", "model", "text"},
    "adapters.source": {"errors"},
    "adapters.sources": {
        "adapters.source",
        "lora.adapter_files",
        "lora.names",
        "lora.regular_file",
        "errors",
    },
    "adapters.sources.source_url": set(),
    "adapter_metrics": {"adapters", "engine"},
    "lorax_metrics": {"engine"},
    "metrics": {"engine", "errors", "adapters", "adapter_metrics", "lorax_metrics"},
    "engine": {"engine", "errors", "lora.prepared", "lora.residency"},
    "text": {"text", "errors"},
    "http": {"http", "adapters", "engine", "text", "errors", "metrics"},
    "kernels": {"engine.plan", "kernels"},
    "quantization": {"quantization", "kernels", "errors"},
    "layers": {"layers", "quantization", "kernels"},
    "model": {"model", "layers", "quantization", "kernels", "errors"},
    "lora": {"lora", "adapters.recipe", "layers", "quantization", "kernels", "errors"},
    "finetune": {"finetune", "model.source", "model.hf_config", "text", "config", "lora", "errors"},
    "runner": {"runner", "engine.plan", "kernels", "lora.pool", "model.causal_model"},
    "runner.compiled": {
        "runner",
        "engine.plan",
        "engine.loop_activity",
        "engine.thread_priority",
        "errors",
        "kernels.cpu",
        "layers",
        "lora",
        "model.decoder",
        "quantization",
    },
}
# What those parts of the client may import of it that must not know about calls.
CLIENT_RULES: dict[str, set[str]] = {
    "limits": {"errors", "timing", "per_loop"},
    "timing": {"waterfall", "notebook", "trace_events", "types.common"},  # to show itself
    "waterfall": {"timing", "types.common"},
    "alarm": {"deadlines"},
    "deadlines": {"per_loop"},
    "loop_lag": {"per_loop"},
    "per_loop": set(),
}
COMPOSITION = {
    "build",
    "build_library",
    "build_runner",
    "cli",
}  # may import anything; nobody imports them but each other

# Libraries that only some parts may touch.
ONLY_IN: dict[str, set[str]] = {
    "starlette": {"http"},
    "uvicorn": {"cli", "http"},
    "torch": {
        "kernels",
        "quantization",
        "layers",
        "model",
        "lora",
        "runner",
        "finetune",
        "build",
        "build_runner",
    },
    "transformers": {"model", "text", "finetune"},
    "peft": {"finetune"},
    "tqdm": {"finetune"},
    "tokenizers": {"text", "model"},
    "jinja2": {"text"},
    "prometheus_client": {"metrics", "adapter_metrics", "lorax_metrics"},
    "configargparse": {"config"},
    "fsspec": {"adapters"},
    "huggingface_hub": {"adapters", "model"},
    "numba": {"kernels", "runner"},
    "llvmlite": {"kernels", "runner"},
}
# The same for the client. What is needed by its types alone counts too.
CLIENT_ONLY_IN: dict[str, set[str]] = {
    "aiohttp": {
        "transports.aiohttp_body",
        "transports.aiohttp_errors",
        "transports.aiohttp_pool",
        "transports.aiohttp_response",
        "transports.aiohttp_session",
        "transports.select",
    },
    "yarl": {"transports.aiohttp_pool"},
    "httpx": {"transports.select"},
    "httpx2": {"transports.select"},
    "openai": {"client", "generation", "openai", "openai_answer"},
    "pytest": {"testing.pytest_plugin"},
}
NO_TORCH_IN_LORA = {
    "lora.names",
    "lora.prepared",
    "lora.residency",
    "lora.adapter_files",
    "lora.regular_file",
}


def modules(package: str) -> Iterator[tuple[str, Path]]:
    for file in sorted(PACKAGES[package].rglob("*.py")):
        parts = file.relative_to(PACKAGES[package]).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), file


def imports(file: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            assert node.module is not None
            yield node.module


def part_of(module: str) -> str:
    names = [name for name in SERVER_RULES if is_within(module, {name})]
    return max(names, key=len) if names else module.split(".")[0]


def is_within(module: str, allowed: set[str]) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in allowed)


def test_the_client_imports_neither_server_nor_load_test_nor_their_libraries() -> None:
    foreign = {"lorry_server", "lorry_loadtest", "torch", "starlette", "locust", "transformers"}
    offences = [
        f"{module}: {name}"
        for module, file in modules("lorry")
        for name in imports(file)
        if name.split(".")[0] in foreign and module != "cli"  # which hands over to them when asked
    ]

    assert offences == []


@pytest.mark.parametrize("part", sorted(CLIENT_RULES))
def test_each_part_of_the_client_imports_only_what_is_below_it(part: str) -> None:
    offences = [
        f"{module}: {name}"
        for module, file in modules("lorry")
        if is_within(module, {part})
        for name in imports(file)
        if name.startswith("lorry.")
        and not is_within(name.removeprefix("lorry."), CLIENT_RULES[part] | {part})
    ]

    assert offences == []


def test_the_load_test_speaks_to_the_server_over_http_only() -> None:
    offences = [
        f"{module}: {name}"
        for module, file in modules("lorry_loadtest")
        for name in imports(file)
        if name.split(".")[0] in {"lorry_server", "torch", "starlette"}
    ]

    assert offences == []


def test_the_load_test_uses_the_sdk_only_where_it_measures_it() -> None:
    offences = [
        f"{module}: {name}"
        for module, file in modules("lorry_loadtest")
        for name in imports(file)
        if name.split(".")[0] == "lorry"
        and not is_within(name, {"lorry.types"})
        and module != "sdk_attempt"
    ]

    assert offences == []


def test_statistics_of_the_load_test_know_nothing_but_numbers() -> None:
    offences = [
        f"{module}: {name}"
        for module, file in modules("lorry_loadtest")
        for name in imports(file)
        if module.startswith("statistics.")
        and name.startswith("lorry")
        and not name.startswith("lorry_loadtest.statistics")
    ]

    assert offences == []


@pytest.mark.parametrize("part", ["validity", "gate", "report", "summary", "explain", "conclude"])
def test_what_judges_a_run_needs_neither_locust_nor_sockets(part: str) -> None:
    """All that follows from records can be computed again without sending anything."""
    files = dict(modules("lorry_loadtest"))
    reached: set[str] = set()
    waiting = [module for module in files if is_within(module, {part})]
    while waiting:
        module = waiting.pop()
        if module in reached or module not in files:
            continue
        reached.add(module)
        for name in imports(files[module]):
            assert name.split(".")[0] not in {"locust", "gevent", "socket"}, f"{module}: {name}"
            if name.startswith("lorry_loadtest."):
                waiting.append(name.removeprefix("lorry_loadtest."))


def test_the_server_imports_of_the_client_only_the_wire_types_and_only_at_its_edge() -> None:
    offences = [
        f"{module}: {name}"
        for module, file in modules("lorry_server")
        for name in imports(file)
        if name.split(".")[0] == "lorry"
        and not (
            (module.split(".")[0] in {"http", "text"} or module == "adapters.contract")
            and is_within(name, {"lorry.types", "lorry._version"})
        )
    ]

    assert offences == []


@pytest.mark.parametrize("part", sorted(SERVER_RULES))
def test_each_part_of_the_server_imports_only_what_is_below_it(part: str) -> None:
    offences = [
        f"{module}: {name}"
        for module, file in modules("lorry_server")
        if module and part_of(module) == part
        for name in imports(file)
        if name.startswith("lorry_server.")
        and not is_within(name.removeprefix("lorry_server."), SERVER_RULES[part] | {part})
    ]

    assert offences == []


def test_every_module_of_the_server_belongs_to_a_part() -> None:
    strays = [
        module
        for module, _ in modules("lorry_server")
        if module and part_of(module) not in SERVER_RULES and module not in COMPOSITION
    ]

    assert strays == []


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_library_is_touched_only_where_it_belongs(library: str) -> None:
    offences = [
        f"{module}: {name}"
        for module, file in modules("lorry_server")
        for name in imports(file)
        if name.split(".")[0] == library
        and (module.split(".")[0] not in ONLY_IN[library] or module in NO_TORCH_IN_LORA)
    ]

    assert offences == []


@pytest.mark.parametrize("library", sorted(CLIENT_ONLY_IN))
def test_a_library_is_touched_by_the_client_only_where_it_belongs(library: str) -> None:
    offences = [
        f"{module}: {name}"
        for module, file in modules("lorry")
        for name in imports(file)
        if name.split(".")[0] == library and module not in CLIENT_ONLY_IN[library]
    ]

    assert offences == []


def test_the_client_does_without_its_own_test_server() -> None:
    offences = [
        f"{module}: {name}"
        for module, file in modules("lorry")
        for name in imports(file)
        if is_within(name, {"lorry.testing"}) and not is_within(module, {"testing"})
    ]

    assert offences == []


def test_whoever_silences_a_checker_in_the_client_says_why() -> None:
    """In words behind it, or on the line before."""
    offences = []
    for module, file in modules("lorry"):
        before = ""
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            silenced = re.search(r"# (?:noqa|type: ignore)(?P<rest>.*)", line)
            if silenced and "# " not in silenced["rest"] and not before.startswith("#"):
                offences.append(f"{module}, line {number}")
            before = line.strip()

    assert offences == []


def test_nothing_is_called_utils() -> None:
    vague = {"utils", "util", "common_utils", "helpers", "misc", "base_utils"}

    assert [
        f"{package}.{module}"
        for package in PACKAGES
        for module, _ in modules(package)
        if module.split(".")[-1] in vague
    ] == []


def test_only_the_config_readers_read_the_environment() -> None:
    readers = {"lorry_server.config", "lorry.config"}
    offences = []
    for package in PACKAGES:
        for module, file in modules(package):
            tree = ast.parse(file.read_text())
            touches = any(
                isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
                for node in ast.walk(tree)
            )
            if touches and f"{package}.{module}" not in readers:
                offences.append(f"{package}.{module}")

    assert offences == []


def test_the_clients_telemetry_library_is_touched_by_its_module_alone_and_nothing_needs_that() -> (
    None
):
    users, importers = set(), set()
    for module, file in modules("lorry"):
        for name in imports(file):
            if name.split(".")[0] == "opentelemetry":
                users.add(module)
            if name == "lorry.otel":
                importers.add(module)

    assert (users, importers) == ({"otel"}, set())


def test_the_blocking_client_has_neither_a_loop_nor_an_http_library_of_others() -> None:
    offences = [
        f"{module}: {name}"
        for module, file in modules("lorry")
        if is_within(module, {"blocking"})
        for name in imports(file)
        if name.split(".")[0] in {"asyncio", "aiohttp", "httpx", "httpx2", "gevent", "concurrent"}
    ]

    assert offences == []


@pytest.mark.parametrize(
    "module",
    [
        *("assembly", "balancing", "call_outcome", "ejection", "endpoints", "error_mapping"),
        *("errors", "generation", "options", "request_body", "retry", "side_by_side", "sse"),
        *("timing", "tool_calls", "trace_events", "waterfall"),
    ],
)
def test_what_decides_in_the_client_does_no_io(module: str) -> None:
    (file,) = (file for name, file in modules("lorry") if name == module)

    assert not {name.split(".")[0] for name in imports(file)} & {"asyncio", "socket", "aiohttp"}


def test_batches_are_built_on_calls_and_studies_on_batches() -> None:
    importers = {"lorry.batch": {"", "client", "batch", "sweep"}, "lorry.sweep": {"", "sweep"}}
    offences = [
        f"{module}: {name}"
        for module, file in modules("lorry")
        for name in imports(file)
        for package, allowed in importers.items()
        if is_within(name, {package}) and module.split(".")[0] not in allowed
    ]
    offences += [
        f"{module}: {name}"
        for module, file in modules("lorry")
        for name in imports(file)
        if name == "lorry.client" and module.startswith("batch")
    ]

    assert offences == []
