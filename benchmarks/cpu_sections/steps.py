"""Milliseconds per step as rows and context grow, beside the floor, and where the time goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cpu_sections.contestant import ContestantError
from cpu_sections.report import Report, Row
from cpu_sections.step_floor import StepFloor

WORKER = Path(__file__).with_name("step_worker.py")
ROWS = (1, 2, 4, 8, 16, 32, 64)
ROWS_CONTEXT = 256
CONTEXTS = (128, 256, 512, 1024, 2048, 4096)
CONTEXTS_ROWS = (1, 16)
PREFILLS = ((64, 64), (128, 128), (256, 256), (256, 1024), (256, 4096))
WITH_PHASES = (("decode", 1, 256), ("decode", 16, 256), ("prefill", 256, 256))
WARM_UP_S = 60.0  # of the worker, beside its limit

Shape = tuple[str, int, int]


def steps(
    report: Report,
    *,
    shapes: Sequence[Shape],
    flags: Sequence[str],
    bandwidth_gb_s: float,
    peak_gop_s: float,
    limit_s: float,
) -> None:
    """Run the worker and add a row per shape. The floor uses the rates that are given."""
    command = [sys.executable, str(WORKER), json.dumps(shapes), str(limit_s), *flags]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_module_path())}
    done = subprocess.run(
        command, stdout=subprocess.PIPE, env=environment, timeout=limit_s + 2 * WARM_UP_S
    )
    if done.returncode != 0:
        raise ContestantError("steps: the worker failed, see its messages above")
    figures = json.loads(done.stdout)
    floor = StepFloor(figures["config"], bandwidth_gb_s, peak_gop_s)
    measured = figures["measured"]
    report.add(
        Row(
            "steps",
            "memory read by two threads now, to the floor's rate",
            measured["bandwidth_gb_s"] / bandwidth_gb_s,
            f"{measured['bandwidth_gb_s']:.1f} GB/s",
            f"{bandwidth_gb_s:.1f} GB/s",
        ),
        Row(
            "steps",
            "int8 products by torch now, to the floor's peak",
            measured["int8_gop_s"] / peak_gop_s,
            f"{measured['int8_gop_s']:.0f} GOP/s",
            f"{peak_gop_s:.0f} GOP/s",
        ),
    )
    for step in figures["steps"]:
        report.add(_row(step, floor, runner=figures["runner"]))
    for step in figures["steps"]:
        if (step["kind"], step["rows"], step["context"]) in WITH_PHASES:
            report.add(*_phase_rows(step))
    for line in figures["omitted"]:
        report.progress(f"steps: left out {line}")
    report.keep("steps", figures)


def all_shapes(*, is_quick: bool) -> list[Shape]:
    """Each shape once, those that need the least cache first."""
    if is_quick:
        return [("decode", 1, 128), ("decode", 16, 128), ("prefill", 64, 64)]
    decodes: set[Shape] = {("decode", rows, ROWS_CONTEXT) for rows in ROWS}
    decodes |= {("decode", rows, context) for rows in CONTEXTS_ROWS for context in CONTEXTS}
    prefills: list[Shape] = [("prefill", rows, context) for rows, context in PREFILLS]
    return sorted([*decodes, *prefills], key=lambda shape: (_cache_tokens(shape), shape))


def _cache_tokens(shape: Shape) -> int:
    kind, rows, context = shape
    return rows * context if kind == "decode" else context


def _row(step: dict[str, Any], floor: StepFloor, *, runner: str) -> Row:
    num_sequences = step["rows"] if step["kind"] == "decode" else 1
    bytes_ms = floor.bytes_ms(step["rows"], step["context"], num_sequences=num_sequences)
    operations_ms = floor.operations_ms(step["rows"], step["context"], num_sequences=num_sequences)
    floor_ms = max(bytes_ms, operations_ms)
    step["floor_bytes_ms"], step["floor_operations_ms"] = bytes_ms, operations_ms
    reason = "bytes" if bytes_ms >= operations_ms else "operations"
    return Row(
        "steps",
        f"{_shape(step)}, {runner}, to its floor",
        step["ms"] / floor_ms,
        f"{step['ms']:.2f} ms",
        f"{floor_ms:.2f} ms ({reason})",
    )


def _phase_rows(step: dict[str, Any]) -> list[Row]:
    total_ms = sum(step["phases_ms"].values())
    return [
        Row(
            "steps",
            f"share of {phase} in {_shape(step)}",
            milliseconds / total_ms,
            f"{milliseconds:.2f} ms",
            f"{total_ms:.2f} ms",
        )
        for phase, milliseconds in sorted(step["phases_ms"].items(), key=lambda item: -item[1])
        if total_ms > 0
    ]


def _shape(step: dict[str, Any]) -> str:
    rows = "1 row" if step["rows"] == 1 else f"{step['rows']} rows"
    return f"{step['kind']}, {rows}, context {step['context']}"


def _module_path() -> list[str]:
    inherited = os.environ.get("PYTHONPATH", "")
    return [str(WORKER.parent.parent), *filter(None, inherited.split(os.pathsep))]
