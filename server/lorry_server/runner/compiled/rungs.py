"""The ladder: which instructions the kernels are compiled for, from the fastest down.

AVX512-VNNI, then AVX2, then plain torch. All give the same bits; they differ in speed only.
Nothing here imports the kernels: numba settles what it compiles for when it first compiles.
"""

from __future__ import annotations

import hashlib
import importlib.util
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

AVX512_VNNI, AVX2, TORCH = "avx512-vnni", "avx2", "torch"
RUNGS = (AVX512_VNNI, AVX2, TORCH)

# Names as LLVM has them.
_NEEDED: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        AVX512_VNNI: frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"}),
        AVX2: frozenset({"avx2", "fma"}),
    }
)
_AVX2_CPU = "haswell"  # the first that had it: what is compiled for it runs on all that have it

KERNELS = Path(__file__).resolve().parent.parent.parent / "kernels" / "cpu"


def available_rungs() -> tuple[str, ...]:
    """The rungs that this machine can stand on, fastest first; torch always is."""
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return (TORCH,)
    if importlib.util.find_spec("numba") is None:
        return (TORCH,)
    from llvmlite import binding  # not there without numba

    present = {name for name, is_there in binding.get_host_cpu_features().items() if is_there}
    return (*(rung for rung, needed in _NEEDED.items() if needed <= present), TORCH)


def kernel_directory(rung: str, *, cache_dir: Path) -> Path:
    """Where a rung's compiled code is kept: each state of the kernels' sources has its own."""
    import numba

    return cache_dir / "kernels" / f"{rung}-{_digest(numba.__version__)}"


def load_kernels(
    rung: str, *, cache_dir: Path, progress: Callable[[str], None]
) -> Callable[[int, int], None]:
    """The compiled `run(step, thread)` for a rung, from disk if it was compiled here before.

    A process has one rung: numba compiles for one processor. Raises RuntimeError if another rung was
    loaded before.
    """
    import numba

    directory = kernel_directory(rung, cache_dir=cache_dir)
    is_loaded = "lorry_server.kernels.cpu.step" in sys.modules
    if rung == AVX2 and not is_loaded:
        numba.config.CPU_NAME = _AVX2_CPU
        numba.config.CPU_FEATURES = "+" + ",+".join(sorted(_features_of_avx2()))
    if not is_loaded and not any(directory.rglob("*.nbi")):  # numba's index of what it compiled
        progress(f"compiling the kernels for this CPU ({rung}; half a minute, once)")
    with _kept_in(directory):
        from lorry_server.kernels.cpu import sampling, step, tile  # noqa: F401 # compiled with it
    if tile.uses_vnni() != (rung == AVX512_VNNI):
        raise RuntimeError(f"this process has already loaded other kernels than {rung}")
    function: Callable[[int, int], None] = step.run
    return function


def sampler_address() -> int:
    """The address of the code of `SAMPLE` records, which `load_kernels` has loaded."""
    from lorry_server.kernels.cpu.sampling import sample_row

    address: int = sample_row.address
    return address


def load_float_kernels(rung: str, *, cache_dir: Path, progress: Callable[[str], None]) -> int:
    """The address of the code for operations over floats, to be called after `load_kernels`."""
    directory = kernel_directory(rung, cache_dir=cache_dir)
    is_loaded = "lorry_server.kernels.cpu.float_step" in sys.modules
    if not is_loaded and not any(directory.rglob("float_step*.nbi")):
        progress(f"compiling the kernels for floats ({rung}; some seconds, once)")
    with _kept_in(directory):
        from lorry_server.kernels.cpu import float_step
    address: int = float_step.run_float.address
    return address


@contextmanager
def _kept_in(directory: Path) -> Iterator[None]:
    """Have numba keep there what is compiled meanwhile."""
    import numba

    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(directory)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


def _features_of_avx2() -> set[str]:
    return {"avx", "avx2", "fma", "f16c", "bmi", "bmi2", "popcnt", "sse4.2", "movbe", "lzcnt"}


def _digest(numba_version: str) -> str:
    """Of all the kernels' sources: numba itself looks only at the file of the outermost function."""
    digest = hashlib.blake2b(numba_version.encode(), digest_size=8)
    for file in sorted(KERNELS.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
