"""One adapter more than fits on the device, all wanted at once: who waits, and how long."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cpu_sections.peft_folder import ALL, write_adapter
from cpu_sections.report import Report, Row

import lorry
from adapter_sections.routes import adapter_card, put_adapter
from lorry_loadtest.local_server import local_server

RANK = 16
NUM_FIT = 8
NEW_TOKENS = 64
WANTED = 2.0
WORDS = [
    "each",
    "of",
    "these",
    "adapters",
    "is",
    "wanted",
    "by",
    "somebody",
    "who",
    "does",
    "not",
    "like",
    "to",
    "wait",
]


def one_too_many(
    report: Report,
    config: Mapping[str, Any],
    folder: Path,
    flags: list[str],
    *,
    seconds: float,
    rounds: int,
) -> None:
    """Nine adapters with a stream each: p95 of TTFT with room for eight beside room for all."""
    names = [f"a{index}" for index in range(NUM_FIT + 1)]
    for index, name in enumerate(names):
        write_adapter(config, folder / name, RANK, ALL, seed=900 + index, dtype=np.float16)
    flags = [*flags, f"--adapter-root={folder}"]
    with local_server(flags) as roomy_url:
        _load(roomy_url, names, folder)
        size = adapter_card(roomy_url, names[0])["num_bytes"]
        with local_server([*flags, f"--adapter-memory={NUM_FIT * size}"]) as tight_url:
            _load(tight_url, names, folder)
            p95: dict[str, list[float]] = {"room for all": [], "one too many": []}
            answered: Counter[str] = Counter()
            for turn in range(rounds):
                for kind, url in (("room for all", roomy_url), ("one too many", tight_url)):
                    ttft = asyncio.run(_loop(url, names, seconds, seed=turn))
                    p95[kind].append(_p95([value for of in ttft.values() for value in of]))
                    if kind == "one too many":
                        answered.update({name: len(of) for name, of in ttft.items()})
                    report.progress(f"one too many: {kind}: p95 of TTFT {p95[kind][-1]:.0f} ms")
    ratios = sorted(b / a for a, b in zip(p95["room for all"], p95["one too many"], strict=True))
    middle = len(ratios) // 2
    report.add(
        Row(
            "one too many",
            f"p95 of TTFT, {NUM_FIT + 1} adapters with a stream each, room for {NUM_FIT}, beside "
            "room for all",
            ratios[middle],
            f"{sorted(p95['one too many'])[middle]:.0f} ms",
            f"{sorted(p95['room for all'])[middle]:.0f} ms",
            f"at most {WANTED:.0f}",
        ),
        Row(
            "one too many",
            "answers of the adapter with the fewest beside the one with the most",
            min(answered.values()) / max(answered.values()),
            f"{min(answered.values())}",
            f"{max(answered.values())}",
        ),
    )
    report.keep("one_too_many", {"p95_ms": p95, "answered": dict(answered)})


def _load(base_url: str, names: list[str], folder: Path) -> None:
    for name in names:
        put_adapter(base_url, name, str(folder / name))


async def _loop(
    base_url: str, names: list[str], seconds: float, *, seed: int
) -> dict[str, list[float]]:
    """Milliseconds to the first token of every request, by adapter."""
    end_s = time.monotonic() + seconds
    ttft: dict[str, list[float]] = {name: [] for name in names}

    async def stream(client: lorry.AsyncClient, name: str, number: int) -> None:
        turn = 0
        while time.monotonic() < end_s:
            turn += 1
            words = [WORDS[(number + turn + place) % len(WORDS)] for place in range(100)]
            generation = await client.generate(
                f"{seed} {number} {turn} " + " ".join(words),
                adapter=name,
                max_tokens=NEW_TOKENS,
                min_tokens=NEW_TOKENS,
                ignore_eos=True,
                temperature=0.0,
                token_times=True,
                timeout=120.0,
            )
            assert generation.timing.ttft is not None
            ttft[name].append(1e3 * generation.timing.ttft)

    async with lorry.AsyncClient(base_url) as client:
        await asyncio.gather(*(stream(client, name, n) for n, name in enumerate(names)))
    return ttft


def _p95(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[int(0.95 * (len(ordered) - 1))]
