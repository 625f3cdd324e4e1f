"""What adapters cost: one, eight unlike ones, a hundred in a budget for sixteen, beside the base."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cpu_sections.contestant import HttpContestant, LoopResult, Work, warm_up
from cpu_sections.mixed_adapters import ONE, UNLIKE, write_unlike_adapters
from cpu_sections.peft_folder import ALL, write_adapter
from cpu_sections.report import Report, Row, median_ratio
from cpu_sections.throughput import NEW_TOKENS, PROMPT_TOKENS

from adapter_sections.routes import adapter_card
from lorry_loadtest.local_server import local_server

RANK = 16
WANTED = {"one": 0.85, "eight": 0.9, "many": 0.85}


def overhead(
    report: Report,
    config: Mapping[str, Any],
    folder: Path,
    flags: list[str],
    *,
    num_adapters: int,
    num_fit: int,
    concurrency: int,
    rounds: int,
    limit_s: float,
) -> None:
    """Compare closed loops in turn on two servers: one with room for all, one with a small budget.

    `num_adapters` adapters of rank 16 on all linears share a budget on the device that holds
    `num_fit` of them; all are in the host's memory before anything is timed.
    """
    write_unlike_adapters(config, folder)
    many = tuple(f"many-{index:03d}" for index in range(num_adapters))
    for index, name in enumerate(many):
        write_adapter(config, folder / name, RANK, ALL, seed=100 + index, dtype=np.float16)
    flags = [*flags, f"--adapter-root={folder}"]
    with local_server(flags) as roomy_url:
        roomy = HttpContestant("room for all", roomy_url)
        warm_up([roomy], concurrency=concurrency)
        _run(roomy, 1, len(UNLIKE), 4, tuple(UNLIKE), seed=2)  # loads them
        size = adapter_card(roomy_url, ONE)["num_bytes"]
        report.progress(f"overhead: an adapter takes {size / 1e6:.1f} MB")
        with local_server([*flags, f"--adapter-memory={num_fit * size}"]) as tight_url:
            tight = HttpContestant("small budget", tight_url)
            warm_up([tight], concurrency=concurrency)
            _run(tight, concurrency, num_adapters, 4, many, seed=3)
            _compare(report, roomy, tight, many, num_fit, concurrency, rounds, limit_s)


def _compare(
    report: Report,
    roomy: HttpContestant,
    tight: HttpContestant,
    many: tuple[str, ...],
    num_fit: int,
    concurrency: int,
    rounds: int,
    limit_s: float,
) -> None:
    num_requests = 4 * concurrency
    kinds: dict[str, tuple[HttpContestant, tuple[str | None, ...], int]] = {
        "base": (roomy, (None,), num_requests),
        "one": (roomy, (ONE,), num_requests),
        "eight": (roomy, tuple(UNLIKE), num_requests),
        "many": (tight, many, max(num_requests, len(many))),
    }
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    tpot: dict[str, list[float]] = {"base": [], "one": []}
    started_s = time.monotonic()
    for turn in range(rounds):
        if turn > 0 and time.monotonic() - started_s > limit_s:
            report.progress(f"overhead: {turn} of {rounds} rounds fit into {limit_s:.0f} s")
            break
        for kind, (contestant, adapters, count) in kinds.items():
            result = _run(contestant, concurrency, count, NEW_TOKENS, adapters, seed=3000 + turn)
            rates[kind].append(result.tokens_per_s)
            report.progress(f"overhead: round {turn + 1}, {kind}: {rates[kind][-1]:.1f} tokens/s")
        for kind in tpot:
            alone = _run(roomy, 1, 4, NEW_TOKENS, kinds[kind][1], seed=4000 + turn)
            tpot[kind].append(1e3 * statistics.median(alone.tpot_s))
    for kind, beside, what in (
        ("one", "base", f"one adapter of rank {RANK} on all linears, beside the base"),
        ("eight", "one", "eight unlike adapters mixed, beside that one adapter"),
        (
            "many",
            "one",
            f"{len(many)} adapters round robin in a budget for {num_fit}, beside that one adapter",
        ),
    ):
        report.add(
            Row(
                "overhead",
                f"output tokens/s, {concurrency} streams, {what}",
                median_ratio(rates[kind], rates[beside]),
                f"{statistics.median(rates[kind]):.1f}",
                f"{statistics.median(rates[beside]):.1f}",
                f"at least {WANTED[kind]}",
            )
        )
    report.add(
        Row(
            "overhead",
            "milliseconds per token, one stream, one adapter beside the base",
            median_ratio(tpot["one"], tpot["base"]),
            f"{statistics.median(tpot['one']):.2f} ms",
            f"{statistics.median(tpot['base']):.2f} ms",
        )
    )
    report.keep("overhead", {"tokens_per_s": rates, "tpot_ms": tpot})


def _run(
    contestant: HttpContestant,
    concurrency: int,
    num_requests: int,
    new_tokens: int,
    adapters: tuple[str | None, ...],
    *,
    seed: int,
) -> LoopResult:
    return contestant.run(
        Work(concurrency, num_requests, PROMPT_TOKENS, new_tokens, seed=seed, adapters=adapters)
    )
