"""Whether streams notice that a large adapter is being loaded from a slow source."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from cpu_sections.peft_folder import ALL, write_adapter
from cpu_sections.report import Report, Row

import lorry
from adapter_sections.routes import put_adapter
from lorry_loadtest.local_server import local_server

SLOW_FILES = Path(__file__).with_name("slow_files.py")
RANK = 320  # 196 MB in float16 for the default model
BYTES_PER_SECOND = 10e6
NUM_STREAMS = 8
NEW_TOKENS = 64
WANTED = 1.2
WORDS = [
    "slow",
    "loads",
    "must",
    "not",
    "be",
    "felt",
    "by",
    "those",
    "who",
    "did",
    "not",
    "ask",
    "for",
    "them",
]


def slow_load(
    report: Report,
    config: Mapping[str, Any],
    folder: Path,
    flags: list[str],
    *,
    rounds: int,
    is_quick: bool,
) -> None:
    """Compare the 99th percentile of token gaps while nothing and while an adapter is loaded."""
    rank = 16 if is_quick else RANK
    for turn in range(rounds):
        write_adapter(config, folder / f"big-{turn}", rank, ALL, seed=turn, dtype=np.float16)
    size = (folder / "big-0" / "adapter_model.safetensors").stat().st_size
    before, during, loads_s = [], [], []
    with (
        _slow_files(folder) as source,
        local_server([*flags, f"--adapter-source={source}"]) as base_url,
    ):
        asyncio.run(_gaps(base_url, seconds=2.0))
        for turn in range(rounds):
            seconds = 2 * size / BYTES_PER_SECOND if is_quick else size / BYTES_PER_SECOND
            before.append(_p99(asyncio.run(_gaps(base_url, seconds=seconds))))
            gaps, load_s = asyncio.run(_gaps_during(base_url, f"{source}big-{turn}", turn))
            during.append(_p99(gaps))
            loads_s.append(load_s)
            report.progress(
                f"slow load: p99 of gaps {before[-1]:.1f} ms, {during[-1]:.1f} ms during a load "
                f"of {load_s:.1f} s"
            )
    ratios = sorted(b / a for a, b in zip(before, during, strict=True))
    report.add(
        Row(
            "slow load",
            f"p99 of token gaps of {NUM_STREAMS} streams while {size / 1e6:.0f} MB come at "
            f"{BYTES_PER_SECOND / 1e6:.0f} MB/s and are taken in, beside no load",
            ratios[len(ratios) // 2],
            f"{during[len(during) // 2]:.1f} ms",
            f"{before[len(before) // 2]:.1f} ms",
            f"at most {WANTED}",
        )
    )
    report.keep("slow_load", {"before_ms": before, "during_ms": during, "loads_s": loads_s})


async def _gaps_during(base_url: str, source: str, turn: int) -> tuple[list[float], float]:
    done = asyncio.Event()
    started_s = time.monotonic()

    async def load() -> None:
        try:
            await asyncio.to_thread(put_adapter, base_url, f"big-{turn}", source)
        finally:
            done.set()

    loading = asyncio.create_task(load())
    gaps = await _gaps(base_url, until=done)
    await loading
    return gaps, time.monotonic() - started_s


async def _gaps(
    base_url: str, *, seconds: float = 600.0, until: asyncio.Event | None = None
) -> list[float]:
    """Gaps between tokens in milliseconds, of a closed loop for `seconds` or until an event."""
    end_s = time.monotonic() + seconds
    gaps: list[float] = []

    async def stream(client: lorry.AsyncClient, number: int) -> None:
        turn = 0
        while time.monotonic() < end_s and not (until is not None and until.is_set()):
            turn += 1
            words = [WORDS[(number + turn + place) % len(WORDS)] for place in range(60)]
            generation = await client.generate(
                f"{number} {turn} " + " ".join(words),
                max_tokens=NEW_TOKENS,
                min_tokens=NEW_TOKENS,
                ignore_eos=True,
                temperature=0.0,
                token_times=True,
                timeout=120.0,
            )
            gaps.extend(1e3 * gap for gap in generation.timing.itl)

    async with lorry.AsyncClient(base_url) as client:
        await asyncio.gather(*(stream(client, number) for number in range(NUM_STREAMS)))
    return gaps


def _p99(values: list[float]) -> float:
    ordered = sorted(values)
    return ordered[int(0.99 * (len(ordered) - 1))]


@contextmanager
def _slow_files(folder: Path) -> Iterator[str]:
    process = subprocess.Popen(
        [sys.executable, str(SLOW_FILES), str(folder), str(BYTES_PER_SECOND)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/"
    finally:
        process.stdin.close()
        process.wait(timeout=10)
        process.stdout.close()
