"""Which rung serves models of floats, what it holds in memory, and that a lower one is close as well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lorry_server.build_runner import RunnerChoice, block_bytes, choose_runner
from lorry_server.config import default_cache_dir, read_config
from lorry_server.model.decoder import Decoder
from lorry_server.model.load import load_model
from lorry_server.runner.compiled.arithmetic import computes_floats
from lorry_server.runner.compiled.rungs import AVX2, TORCH, available_rungs, load_float_kernels
from tests.support.kernel_tape import needs_kernels
from tests.support.tiny_adapters import UNLIKE, write_unlike_adapters
from tests.support.tiny_engine import CPU
from tests.support.tiny_model import write_tiny_model
from tests.support.twin_engine import float_kernels, kernels

ROOT = Path(__file__).parents[3]
F32, BF16, F16, INT8 = torch.float32, torch.bfloat16, torch.float16, torch.int8


@needs_kernels
@pytest.mark.parametrize(
    ("quantization", "dtype", "kv_dtype", "has_floats"),
    [
        ("none", F32, F32, True),
        ("none", BF16, BF16, True),
        ("none", BF16, INT8, True),
        ("int8", F32, BF16, True),
        ("int8", F32, INT8, False),
    ],
)
def test_weights_and_caches_of_floats_take_the_fastest_rung(
    tmp_path: Path, quantization: str, dtype: torch.dtype, kv_dtype: torch.dtype, has_floats: bool
) -> None:
    folder = write_tiny_model(tmp_path)
    model = load_model(folder, dtype=dtype, device=CPU, quantization=quantization)

    choice = choose_runner(read_config([]), model, device=CPU, kv_dtype=kv_dtype)

    assert choice == RunnerChoice(available_rungs()[0], None)
    assert isinstance(model, Decoder)
    assert computes_floats(model, kv_dtype) == has_floats


@needs_kernels
@pytest.mark.parametrize(
    ("dtype", "kv_dtype", "reason"),
    [(F16, INT8, "its weights are float16"), (F32, F16, "the KV cache is float16")],
)
def test_float16_takes_torch(
    tmp_path: Path, dtype: torch.dtype, kv_dtype: torch.dtype, reason: str
) -> None:
    model = load_model(write_tiny_model(tmp_path), dtype=dtype, device=CPU, quantization="none")

    choice = choose_runner(read_config([]), model, device=CPU, kv_dtype=kv_dtype)

    assert choice == RunnerChoice(TORCH, reason)


@pytest.mark.parametrize(("kv_dtype", "head_bytes"), [(F32, 128), (BF16, 64), (INT8, 36)])
def test_a_block_counts_the_bytes_that_heads_are_filled_up_to(
    tmp_path: Path, kv_dtype: torch.dtype, head_bytes: int
) -> None:
    model = load_model(write_tiny_model(tmp_path), dtype=F32, device=CPU, quantization="none")

    num_bytes = block_bytes(RunnerChoice(AVX2, None), model, block_size=64, kv_dtype=kv_dtype)

    assert num_bytes == 2 * 2 * 2 * 64 * head_bytes  # layers, heads, keys and values


@needs_kernels
def test_kernels_for_floats_are_loaded_once() -> None:
    kernels()
    address = float_kernels()

    def refuse(line: str) -> None:
        raise AssertionError(line)

    again = load_float_kernels(available_rungs()[0], cache_dir=default_cache_dir(), progress=refuse)
    assert again == address


@pytest.mark.skipif(AVX2 not in available_rungs(), reason="this machine has no AVX2")
@pytest.mark.timeout(300)  # compiles, where nothing has before
def test_the_avx2_rung_is_close_to_the_reference(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "model", "qwen3")
    configs = {name: UNLIKE[name] for name in ("all-r16", "ranks", "head-r6")}
    paths = write_unlike_adapters(folder, tmp_path / "adapters", configs)

    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.support.forced_float_rung", AVX2),
            *(str(folder), ",".join(map(str, paths.values()))),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "OK"
