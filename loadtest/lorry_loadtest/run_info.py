"""What was run, and on what: the part of a result that lets someone repeat it."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterable, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from lorry_loadtest.machine import Machine, describe_machine
from lorry_loadtest.routes import Route
from lorry_loadtest.server_facts import ServerFacts
from lorry_loadtest.wire import Wire
from lorry_loadtest.workload import Workload

_GIT_TIMEOUT_S = 5.0


class RunInfo(msgspec.Struct, frozen=True, kw_only=True):
    """`adapters` are the wanted shares by name, `started_at` is UTC in ISO 8601.

    `version` is the load test's own, and `commit` that of the checkout that it ran from (empty: of an
    installed package). `server` is what the server says of itself.
    """

    url: str
    base_model: str
    adapters: dict[str, float]
    route: Route
    prompt_words: str
    max_tokens: str
    ignore_eos: bool
    seed: int
    warmup_s: float
    duration_s: float
    command: str
    started_at: str
    version: str
    machine: Machine
    commit: str = ""
    server: ServerFacts = ServerFacts()


def describe_run(
    command: Sequence[str],
    *,
    wire: Wire,
    workload: Workload,
    warmup_s: float,
    duration_s: float,
    started_at: datetime,
    server: ServerFacts,
) -> RunInfo:
    """`command` is what was typed, word by word; the key is left out of it."""
    mix = workload.adapters
    return RunInfo(
        url=str(wire.endpoint),
        base_model=wire.base_model,
        adapters={name or wire.base_model: mix.share_of(name) for name in mix.all_names},
        route=workload.route,
        prompt_words=str(workload.prompts),
        max_tokens=str(workload.max_tokens),
        ignore_eos=wire.ignore_eos,
        seed=workload.seed,
        warmup_s=warmup_s,
        duration_s=duration_s,
        command=_printable(command, secret=wire.api_key),
        started_at=started_at.isoformat(timespec="seconds"),
        version=_lorry_version(),
        machine=describe_machine(),
        commit=_commit(),
        server=server,
    )


def describe_together(infos: Sequence[RunInfo], counts: Sequence[int]) -> RunInfo:
    """Of several user classes, which sent so many requests each: their shares by these, and what
    they say of themselves one after the other."""

    if len(infos) == 1:
        return infos[0]

    def told(values: Iterable[str]) -> str:
        return "; ".join(dict.fromkeys(values))

    names = dict.fromkeys(name for info in infos for name in info.adapters)
    return msgspec.structs.replace(
        infos[0],
        adapters={
            name: sum(
                count * info.adapters.get(name, 0.0)
                for info, count in zip(infos, counts, strict=True)
            )
            / max(1, sum(counts))
            for name in names
        },
        prompt_words=told(info.prompt_words for info in infos),
        max_tokens=told(info.max_tokens for info in infos),
    )


def _printable(command: Sequence[str], *, secret: str | None) -> str:
    return shlex.join(word.replace(secret, "KEY") if secret else word for word in command)


def _commit() -> str:
    """With `+` where files differ from it."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+"],
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return described.stdout.strip()


def _lorry_version() -> str:
    try:
        return version("lorry")
    except PackageNotFoundError:
        return "not installed"
