"""Our integer tiles beside oneDNN's in large steps: all products of the default model's layers.

    .venv/bin/python benchmarks/large_products.py

oneDNN (`torch.ops.onednn.qlinear_pointwise`) multiplies bytes with packed int8 weights and scales whole
rows. Our tiles scale every group of 32 inputs as well, which it cannot, and their time holds what
is done with the results too (activation, quantization, residual); oneDNN's is of the bare products.
In turn, on all cores; the least of several runs, and the ratio.
"""

from __future__ import annotations

import os
import time

import torch
from cpu_sections.synthetic_plans import prefill_plan

from lorry_server.build import build_server
from lorry_server.config import read_config

ROWS = (64, 128, 256)
SHAPES = ((960, 576), (576, 576), (3072, 576), (576, 1536))  # of a layer: outputs, inputs
NUM_LAYERS = 30
NUM_RUNS = 9
PRODUCTS = ("qkv", "output", "gate and up", "down")


class OneDNN:
    """Every layer's products, each with weights of its own."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._packed = [
            (num_outputs, num_inputs, self._pack(num_outputs, num_inputs, generator))
            for _ in range(NUM_LAYERS)
            for num_outputs, num_inputs in SHAPES
        ]

    def _pack(self, num_outputs: int, num_inputs: int, generator: torch.Generator) -> torch.Tensor:
        size = (num_outputs, num_inputs)
        w_NK = torch.randint(-127, 128, size, dtype=torch.int8, generator=generator)
        return torch.ops.onednn.qlinear_prepack(w_NK, None)

    def seconds(self, rows: int) -> float:
        inputs = {
            num_inputs: torch.randint(0, 256, (rows, num_inputs), dtype=torch.uint8)
            for _, num_inputs in SHAPES
        }
        began_s = time.perf_counter()
        for num_outputs, num_inputs, packed in self._packed:
            torch.ops.onednn.qlinear_pointwise(
                inputs[num_inputs], 1.0, 128, packed,
                torch.ones(num_outputs), torch.zeros(num_outputs, dtype=torch.int32),
                None, 1.0, 0, torch.float32, "none", [], "",
            )  # fmt: skip
        return time.perf_counter() - began_s


def main() -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    built = build_server(read_config(["--max-model-len", "1024"]), progress=lambda _: None)
    runner = built.engine._runner
    one_dnn = OneDNN()
    print("rows    lorry ms    oneDNN ms    oneDNN / lorry")
    for rows in ROWS:
        plan = prefill_plan(rows, rows, block_size=built.service.info.block_size, seed=rows)
        ours_s, theirs_s = [], []
        for _ in range(NUM_RUNS):
            before = runner.phase_seconds()
            runner.run(plan)
            after = runner.phase_seconds()
            ours_s.append(sum(after[name] - before.get(name, 0.0) for name in PRODUCTS))
            theirs_s.append(one_dnn.seconds(rows))
        ours_ms, theirs_ms = 1e3 * min(ours_s), 1e3 * min(theirs_s)
        print(
            f"{rows:4d} {ours_ms:11.1f} {theirs_ms:12.1f} {theirs_ms / ours_ms:17.2f}", flush=True
        )


if __name__ == "__main__":
    main()
