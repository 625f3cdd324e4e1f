"""A thousand loads, replacements and unloads while requests run: is every text a right one?"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpu_sections.peft_folder import write_adapter
from cpu_sections.process_memory import listener_pid, resident
from cpu_sections.report import Report, Row

import lorry
from adapter_sections.routes import delete_adapter, put_adapter
from lorry_loadtest.local_server import local_server

NUM_NAMES = 50
VARIANTS = 2
TARGETS = ("q_proj", "v_proj", "down_proj")
NEW_TOKENS = 12
NUM_READERS = 8
PROMPT = "The lorry stopped in front of the house and"
STRENGTH = 1.0  # so large that each adapter says something else
SETTLED = 0.2  # memory is compared from this share of the cycles on
WANTED_GROWTH = 1.05


@dataclass(slots=True)
class _Stay:
    """A name stood for `folder` (None: for nothing) at some time of the span, perhaps not all."""

    folder: str | None
    since_s: float
    until_s: float = math.inf


@dataclass(slots=True)
class _Name:
    """What a name stood for. While it is being moved it may be either."""

    stays: list[_Stay] = field(default_factory=lambda: [_Stay(None, -math.inf)])

    @property
    def now(self) -> str | None:
        return self.stays[-1].folder

    def between(self, start_s: float, end_s: float) -> set[str | None]:
        """Everything that it may have stood for at some moment of the span."""
        return {s.folder for s in self.stays if s.since_s <= end_s and s.until_s >= start_s}

    @contextmanager
    def moving_to(self, folder: str | None) -> Iterator[None]:
        """The block moves the name: before it the name is the old one, after it the new one."""
        old = self.stays[-1]
        self.stays.append(_Stay(folder, time.monotonic()))
        yield
        old.until_s = time.monotonic()


@dataclass(slots=True)
class _Tally:
    right: int = 0
    not_there: int = 0
    wrong: list[str] = field(default_factory=list)


def churn(
    report: Report,
    config: Mapping[str, Any],
    folder: Path,
    flags: list[str],
    *,
    num_cycles: int,
) -> None:
    """Move names over contents at random and hold every answer against what was possible."""
    contents = [f"c{index:03d}" for index in range(NUM_NAMES * VARIANTS)]
    for index, content in enumerate(contents):
        write_adapter(config, folder / content, 4, TARGETS, seed=500 + index, strength=STRENGTH)
    with local_server([*flags, f"--adapter-root={folder}"]) as base_url:
        expected = asyncio.run(_expected(base_url, folder, contents))
        report.progress(f"churn: {len(set(expected.values()))} texts of {len(contents)} adapters")
        pid = listener_pid(base_url)
        assert pid is not None
        tally, memory = asyncio.run(_run(base_url, folder, contents, expected, num_cycles, pid))
    settled = memory[int(SETTLED * len(memory))]
    report.add(
        Row(
            "churn",
            f"answers that no version of their name could have given, in {num_cycles} loads, "
            f"replacements and unloads over {NUM_NAMES} names",
            None,
            f"{len(tally.wrong)} of {tally.right + len(tally.wrong)}",
            f"{tally.not_there} found the name unloaded",
            "0",
        ),
        Row(
            "churn",
            f"resident memory at the end beside that after {SETTLED:.0%} of them",
            memory[-1] / settled,
            f"{memory[-1] / 2**20:.0f} MiB",
            f"{settled / 2**20:.0f} MiB",
            f"at most {WANTED_GROWTH}",
        ),
    )
    for wrong in tally.wrong[:5]:
        report.progress(f"churn: wrong: {wrong}")
    report.keep("churn", {"right": tally.right, "wrong": tally.wrong, "memory": memory})


async def _expected(base_url: str, folder: Path, contents: list[str]) -> dict[str, str]:
    texts = {}
    async with lorry.AsyncClient(base_url) as client:
        for content in contents:
            await asyncio.to_thread(put_adapter, base_url, "alone", str(folder / content))
            texts[content] = (await _generate(client, "alone")).text
    await asyncio.to_thread(delete_adapter, base_url, "alone")
    return texts


async def _run(
    base_url: str,
    folder: Path,
    contents: list[str],
    expected: dict[str, str],
    num_cycles: int,
    pid: int,
) -> tuple[_Tally, list[int]]:
    rng = random.Random(7)
    names = {f"n{index:02d}": _Name() for index in range(NUM_NAMES)}
    tally, memory, is_over = _Tally(), [], False

    async def read(client: lorry.AsyncClient, seed: int) -> None:
        choices = random.Random(seed)
        while not is_over:
            name = choices.choice(list(names))
            start_s = time.monotonic()
            try:
                text = (await _generate(client, name)).text
            except lorry.AdapterNotFound:
                text = None
            possible = names[name].between(start_s, time.monotonic())
            if text is None and None in possible:
                tally.not_there += 1
            elif text is not None and any(
                folder is not None and expected[folder] == text for folder in possible
            ):
                tally.right += 1
            else:
                tally.wrong.append(f"{name}: {text!r}, possible were {sorted(map(str, possible))}")

    async def change() -> None:
        for cycle in range(num_cycles):
            name = rng.choice(list(names))
            now = names[name].now
            if now is not None and rng.random() < 0.3:
                with names[name].moving_to(None):
                    await asyncio.to_thread(delete_adapter, base_url, name)
            else:
                content = rng.choice([c for c in contents if c != now])
                with names[name].moving_to(content):
                    await asyncio.to_thread(put_adapter, base_url, name, str(folder / content))
            if cycle % max(1, num_cycles // 50) == 0:
                memory.append(resident(pid).now_bytes)

    async with lorry.AsyncClient(base_url) as client:
        readers = [asyncio.create_task(read(client, seed)) for seed in range(NUM_READERS)]
        await change()
        is_over = True
        await asyncio.gather(*readers)
    memory.append(resident(pid).now_bytes)
    return tally, memory


async def _generate(client: lorry.AsyncClient, name: str) -> lorry.Generation:
    return await client.generate(
        PROMPT,
        adapter=name,
        max_tokens=NEW_TOKENS,
        min_tokens=NEW_TOKENS,
        ignore_eos=True,
        temperature=0.0,
        timeout=60.0,
    )
