"""What adapters cost: eight unlike ones in one batch, and one for all, beside the base model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cpu_sections.contestant import Contestant, Work
from cpu_sections.peft_folder import ATTENTION, MLP, write_adapter
from cpu_sections.report import Report, Row, median_ratio
from cpu_sections.throughput import NEW_TOKENS, PROMPT_TOKENS

UNLIKE: dict[str, tuple[int, tuple[str, ...]]] = {
    "qv-r4": (4, ("q_proj", "v_proj")),
    "down-r4": (4, ("down_proj",)),
    "attention-r8": (8, ATTENTION),
    "mixed-r8": (8, ("k_proj", "o_proj", "gate_proj", "down_proj")),
    "all-r16": (16, ATTENTION + MLP),
    "mlp-r32": (32, MLP),
    "qkv-r64": (64, ("q_proj", "k_proj", "v_proj")),
    "all-r64": (64, ATTENTION + MLP),
}
ONE = "all-r16"
WANTED_OF_BASE = 0.85


def write_unlike_adapters(config: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    """Write the adapters of UNLIKE as PEFT folders for a model with this config.json."""
    return {
        name: write_adapter(config, folder / name, rank, targets, seed=index)
        for index, (name, (rank, targets)) in enumerate(UNLIKE.items())
    }


def mixed_adapters(
    report: Report,
    ours: Contestant,
    *,
    concurrency: int,
    requests_per_stream: int,
    rounds: int,
    limit_s: float,
) -> None:
    """Run base, mixed and one-adapter loops in turn on a server that holds all of UNLIKE."""
    kinds: dict[str, tuple[str | None, ...]] = {
        "base": (None,),
        "eight adapters": tuple(UNLIKE),
        "one adapter": (ONE,),
    }
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    started_s = time.monotonic()
    for turn in range(rounds):
        if turn > 0 and time.monotonic() - started_s > limit_s:
            report.progress(f"adapters: {turn} of {rounds} rounds fit into {limit_s:.0f} s")
            break
        for kind, adapters in kinds.items():
            work = Work(
                concurrency=concurrency,
                num_requests=requests_per_stream * concurrency,
                prompt_tokens=PROMPT_TOKENS,
                new_tokens=NEW_TOKENS,
                seed=3000 + turn,
                adapters=adapters,
            )
            rates[kind].append(ours.run(work).tokens_per_s)
            report.progress(
                f"adapters: round {turn + 1}, {concurrency} streams, {kind}: "
                f"{rates[kind][-1]:.1f} tokens/s"
            )
    base = rates["base"]
    for kind, what, wanted in (
        ("eight adapters", "eight unlike adapters mixed", f"at least {WANTED_OF_BASE}"),
        ("one adapter", f"all on one adapter ({ONE})", ""),
    ):
        report.add(
            Row(
                "adapters",
                f"output tokens/s, {concurrency} streams, {what}, beside the base model",
                median_ratio(rates[kind], base),
                f"{statistics.median(rates[kind]):.1f}",
                f"{statistics.median(base):.1f}",
                wanted,
            )
        )
    report.keep("adapters", rates)
