"""Times single steps of the server's own runner, in a process of its own.

    step_worker.py SHAPES LIMIT_S [lorry serve's flags]

SHAPES is JSON: a list of [kind, rows, context], kind decode or prefill, in the order in which they
are wanted. Prints one line of JSON on standard output.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from cpu_sections.synthetic_plans import decode_plan, fill_plan, prefill_plan
from lorry_server.build import BuiltServer, build_server
from lorry_server.config import read_config
from lorry_server.engine.engine import ModelRunner

MIN_REPETITIONS, MAX_REPETITIONS, REPEAT_S = 3, 100, 1.0
STREAMED_BYTES = 512 << 20
MATRIX = 2048


def main() -> None:
    shapes, limit_s = json.loads(sys.argv[1]), float(sys.argv[2])
    measured = {"bandwidth_gb_s": stream_gb_s(), "int8_gop_s": int8_gop_s()}
    built = build_server(read_config(sys.argv[3:]), progress=say)
    info = built.service.info
    steps, omitted = time_steps(built, shapes, limit_s)
    print(
        json.dumps(
            {
                "measured": measured,
                "config": json.loads((Path(info.model_path) / "config.json").read_text()),
                "runner": type(runner_of(built)).__name__,
                "threads": torch.get_num_threads(),
                "steps": steps,
                "omitted": omitted,
            }
        )
    )


def time_steps(
    built: BuiltServer, shapes: list[tuple[str, int, int]], limit_s: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """The shapes in their order; those that do not fit the cache or the time are named."""
    info, runner = built.service.info, runner_of(built)
    block_size = info.block_size
    started_s = time.monotonic()
    steps, omitted, num_filled = [], [], 0
    for kind, rows, context in shapes:
        num_blocks = -(-context // block_size) * (rows if kind == "decode" else 1)
        name = f"{kind} of {rows} rows at context {context}"
        if num_blocks > info.num_blocks:
            omitted.append(f"{name}: the cache has {info.num_blocks} blocks of {num_blocks}")
            continue
        if rows > (info.max_num_seqs if kind == "decode" else info.max_num_batched_tokens):
            omitted.append(f"{name}: more rows than a step may have here")
            continue
        num_filled = fill(runner, num_filled, num_blocks, info, started_s + limit_s)
        if num_filled < num_blocks or time.monotonic() - started_s > limit_s:
            omitted.append(f"{name}: {limit_s:.0f} s are over")
            continue
        make = decode_plan if kind == "decode" else prefill_plan
        plan = make(rows, context, block_size=block_size, seed=rows)
        runner.run(plan)
        before = phase_seconds(runner)
        times_ms = repeat(lambda plan=plan: runner.run(plan))
        phases = {
            phase: 1e3 * (seconds - before.get(phase, 0.0)) / len(times_ms)
            for phase, seconds in phase_seconds(runner).items()
        }
        steps.append(
            {
                "kind": kind,
                "rows": rows,
                "context": context,
                "ms": statistics.median(times_ms),
                "least_ms": min(times_ms),
                "phases_ms": phases,
            }
        )
        say(f"{name}: {steps[-1]['ms']:.2f} ms")
    return steps, omitted


def fill(runner: ModelRunner, first: int, end: int, info: Any, deadline_s: float) -> int:
    """Write blocks `first` to `end`; return how far it came.

    Memory that nothing has written is one page of zeros for all, and reads of it cost nothing.
    """
    per_step = max(1, info.max_num_batched_tokens // info.block_size)
    while first < end and time.monotonic() < deadline_s:
        num_blocks = min(per_step, end - first)
        runner.run(fill_plan(first, num_blocks, block_size=info.block_size, seed=first))
        first += num_blocks
    return first


def repeat(step: Callable[[], object]) -> list[float]:
    times_ms: list[float] = []
    started_s = time.perf_counter()
    while len(times_ms) < MAX_REPETITIONS:
        before_s = time.perf_counter()
        step()
        now_s = time.perf_counter()
        times_ms.append(1e3 * (now_s - before_s))
        if len(times_ms) >= MIN_REPETITIONS and now_s - started_s > REPEAT_S:
            break
    return times_ms


def runner_of(built: BuiltServer) -> ModelRunner:
    return built.engine._runner  # only a benchmark runs steps behind the engine's back


def phase_seconds(runner: ModelRunner) -> dict[str, float]:
    """What the runner counts of its own time, by phase; empty where it counts nothing."""
    phases = getattr(runner, "phase_seconds", None)
    if callable(phases):
        phases = phases()
    return dict(phases) if isinstance(phases, Mapping) else {}


def stream_gb_s() -> float:
    """The best of some reads of an array that no cache holds, by torch's threads."""
    numbers = torch.ones(STREAMED_BYTES // 4, dtype=torch.float32)
    return STREAMED_BYTES / best_s(lambda: numbers.sum()) / 1e9


def int8_gop_s() -> float:
    """The best of some large int8 matrix products by torch (oneDNN where it has it)."""
    x_MK = torch.randint(-127, 127, (MATRIX, MATRIX), dtype=torch.int8)
    w_KN = torch.randint(-127, 127, (MATRIX, MATRIX), dtype=torch.int8)
    return 2 * MATRIX**3 / best_s(lambda: torch._int_mm(x_MK, w_KN)) / 1e9


def best_s(work: Callable[[], object], *, times: int = 6) -> float:
    best = float("inf")
    for _ in range(times):
        started_s = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started_s)
    return best


def say(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
