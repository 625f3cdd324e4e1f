from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lorry_server.build import build_server
from lorry_server.config import read_config
from lorry_server.runner.kv_cache import KVCache, bytes_per_block
from tests.support.tiny_model import write_tiny_model

SHAPE = {"num_layers": 3, "num_kv_heads": 2, "head_dim": 24, "block_size": 16}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_bytes_per_block_are_those_that_the_cache_takes(dtype: torch.dtype) -> None:
    cache = KVCache(**SHAPE, num_blocks=5, dtype=dtype, device=torch.device("cpu"))

    tensors = (cache.k_LKCH, cache.v_LKCH, cache.k_scale_LKC, cache.v_scale_LKC)

    assert 5 * bytes_per_block(**SHAPE, dtype=dtype) == sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_what_is_written_can_be_attended_to(dtype: torch.dtype) -> None:
    cache = KVCache(**SHAPE, num_blocks=5, dtype=dtype, device=torch.device("cpu"))
    k_TKH, v_TKH = torch.randn(2, 4, 2, 24, generator=torch.Generator().manual_seed(0))

    cache.write(1, k_TKH, v_TKH, torch.tensor([7, 3, 40, 41]))

    stored_KTH = cache.v_LKCH[1][:, [7, 3, 40, 41]].float()
    if dtype == torch.int8:
        stored_KTH *= cache.v_scale_LKC[1][:, [7, 3, 40, 41], None]
    torch.testing.assert_close(stored_KTH.transpose(0, 1), v_TKH, atol=0.02, rtol=0.01)
    assert not cache.v_LKCH[[0, 2]].any()


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        (["--quantization", "int8"], torch.int8),
        (["--quantization", "int4"], torch.int8),
        (["--quantization", "none"], torch.float32),
        (["--quantization", "none", "--dtype", "bfloat16"], torch.bfloat16),
        (["--quantization", "int8", "--kv-cache-dtype", "float32"], torch.float32),
        (["--quantization", "none", "--kv-cache-dtype", "int8"], torch.int8),
    ],
)
def test_the_dtype_decides_how_many_blocks_the_memory_holds(
    flags: list[str], dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = write_tiny_model(tmp_path / "model")
    config = read_config(
        ["--model", str(folder), "--cpu-kernels", "torch", "--kv-cache-memory", "1MiB", *flags]
    )

    built = build_server(config, progress=lambda _: None)

    block = bytes_per_block(num_layers=2, num_kv_heads=2, head_dim=16, block_size=64, dtype=dtype)
    assert built.service.info.num_blocks == 2**20 // block
