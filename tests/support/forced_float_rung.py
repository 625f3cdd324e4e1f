"""Run as a program: models of floats on the kernels of one rung, beside the reference.

    python -m tests.support.forced_float_rung RUNG MODEL ADAPTER,ADAPTER ...

One adapter fewer than there are fits at once, so that they come and go between the steps.
A process has the kernels of one rung, so a lower one needs a process of its own. Prints for each dtype of
weights and cache how many steps were close, and "OK" at the end.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch

from lorry_server.engine.request import Request, SamplingParams
from tests.support.close_runner import CloseRunner
from tests.support.engines import run_to_end
from tests.support.twin_engine import make_twin_engine

NUM_REQUESTS = 10
EXACT = partial(CloseRunner, atol=1e-4, same_tokens=True)
CLOSE = partial(CloseRunner, spread=0.06, same_tokens=False)


def main(rung: str, model: str, adapters: str) -> None:
    paths = {path: Path(path) for path in adapters.split(",")}
    for dtype, kv_dtype, pair in (
        (torch.float32, torch.float32, EXACT),
        (torch.bfloat16, torch.bfloat16, CLOSE),
    ):
        engine, runner, digests = make_twin_engine(
            Path(model),
            adapters=paths,
            quantization="none",
            dtype=dtype,
            kv_dtype=kv_dtype,
            pair=pair,
            rung=rung,
            adapter_slots=len(paths) - 1,
        )
        choices = [None, *digests.values()]
        for index in range(NUM_REQUESTS):
            prompt = tuple((29 * index + 7 * place) % 250 for place in range(1 + 8 * index))
            sampling = SamplingParams(max_tokens=5, ignore_eos=True, temperature=0.0)
            adapter = choices[index % len(choices)]
            engine.add(Request(str(index), prompt, sampling, adapter=adapter))
            engine.step()
        run_to_end(engine)
        assert engine.residency.counters.evictions > 0
        print(f"{runner.num_steps} steps with {dtype} and {kv_dtype}")
    print("OK")


if __name__ == "__main__":
    main(*sys.argv[1:])
