"""Run as a program: tiny models with adapters on the kernels of one rung, beside the reference.

    python -m tests.support.forced_rung RUNG MODEL=QUANTIZATION:ADAPTER,ADAPTER ...

One adapter fewer than there are fits at once, so that they come and go between the steps.
A process has the kernels of one rung, so a lower one needs a process of its own. Prints where
the compiled code lies, then for each model how many steps had the same bits, and "OK" at the end.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from lorry_server.engine.request import Request, SamplingParams
from tests.support.engines import run_to_end
from tests.support.twin_engine import kernels, make_twin_engine

NUM_REQUESTS = 12


def main(rung: str, *models: str) -> None:
    print(f"code in {code_folder(kernels(rung))}")
    for model in models:
        folder, _, rest = model.partition("=")
        quantization, _, adapters = rest.partition(":")
        paths = {path: Path(path) for path in adapters.split(",")}
        engine, runner, digests = make_twin_engine(
            Path(folder),
            adapters=paths,
            quantization=quantization,
            rung=rung,
            adapter_slots=len(paths) - 1,
        )
        choices = [None, *digests.values()]
        for index in range(NUM_REQUESTS):
            engine.add(make_request(index, choices[index % len(choices)]))
            engine.step()
        run_to_end(engine)
        assert engine.residency.counters.evictions > 0
        print(f"{folder}: {runner.num_steps} steps with {quantization} weights")
    print("OK")


def code_folder(run: Callable[[int, int], None]) -> str:
    """Where numba keeps a function's compiled code."""
    path: str = run.stats.cache_path  # type: ignore[attr-defined] # numba's own kind of function
    return path


def make_request(index: int, adapter: str | None) -> Request:
    length = (1, 16, 17, 33, 40)[index % 5]
    prompt = tuple((29 * index + 7 * place * place) % 250 for place in range(length))
    sampling = SamplingParams(
        max_tokens=5,
        ignore_eos=True,
        temperature=0.8 if index % 3 == 2 else 0.0,
        top_p=0.9 if index % 2 else 1.0,
        typical_p=0.8 if index % 4 == 3 else 1.0,
        repetition_penalty=1.2 if index % 5 == 4 else 1.0,
        seed=index,
        num_logprobs=2 if index % 4 == 1 else None,
    )
    return Request(str(index), prompt, sampling, adapter=adapter)


if __name__ == "__main__":
    main(*sys.argv[1:])
