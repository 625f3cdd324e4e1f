"""The threads of a compiled runner end with it."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

from lorry_server.engine.request import Request, SamplingParams
from tests.support.engines import run_to_end
from tests.support.kernel_tape import needs_kernels
from tests.support.tiny_model import write_tiny_model
from tests.support.twin_engine import make_twin_engine

pytestmark = needs_kernels


def test_closing_a_runner_ends_its_threads(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    before = set(threading.enumerate())
    engine, runner, _ = make_twin_engine(folder, num_threads=3)
    started = set(threading.enumerate()) - before
    engine.add(Request("a", (5, 6, 7), SamplingParams(max_tokens=4, ignore_eos=True)))
    run_to_end(engine)

    runner.compiled.close()
    runner.compiled.close()

    assert len(started) == 3
    assert not any(thread.is_alive() for thread in started)


def test_threads_do_not_outlive_a_runner_that_is_forgotten(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path)
    before = set(threading.enumerate())
    engine, runner, _ = make_twin_engine(folder, num_threads=3)
    started = set(threading.enumerate()) - before

    del engine, runner
    gc.collect()

    assert len(started) == 3
    assert not any(thread.is_alive() for thread in started)
