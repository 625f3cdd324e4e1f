"""The ladder of kernels: which rungs there are, how they are loaded, and that the lower ones hold."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lorry_server.config import default_cache_dir
from lorry_server.kernels import cpu
from lorry_server.runner.compiled import rungs
from lorry_server.runner.compiled.rungs import (
    AVX2,
    AVX512_VNNI,
    TORCH,
    available_rungs,
    kernel_directory,
    load_kernels,
)
from tests.support.forced_rung import code_folder
from tests.support.kernel_tape import needs_kernels
from tests.support.tiny_adapters import UNLIKE, write_unlike_adapters
from tests.support.tiny_model import write_tiny_model
from tests.support.twin_engine import kernels

ROOT = Path(__file__).parents[3]
STEP = "lorry_server.kernels.cpu.step"
LOAD = """
import sys
from pathlib import Path
from lorry_server.runner.compiled.rungs import load_kernels
run = load_kernels(sys.argv[1], cache_dir=Path(sys.argv[2]), progress=print)
print("hits", sum(run.stats.cache_hits.values()), "misses", sum(run.stats.cache_misses.values()))
"""
WIDE_REGISTERS = re.compile(r"%zmm|%[xy]mm(?:1[6-9]|2\d|3[01])\b|%k[0-7]\b")

has_avx2 = pytest.mark.skipif(AVX2 not in available_rungs(), reason="this machine has no AVX2")


class CompilingError(Exception):
    """Raised where the ladder would begin to compile."""


def refuse(line: str) -> None:
    raise CompilingError(line)


@pytest.fixture
def nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has loaded no kernels yet."""
    monkeypatch.delitem(sys.modules, STEP, raising=False)


@pytest.mark.parametrize(
    ("system", "machine"),
    [("darwin", "x86_64"), ("darwin", "arm64"), ("linux", "aarch64"), ("win32", "AMD64")],
)
def test_other_systems_and_processors_take_the_torch_rung(
    system: str, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)

    assert available_rungs() == (TORCH,)


def test_without_numba_there_is_only_the_torch_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    assert available_rungs() == (TORCH,)


@needs_kernels
@pytest.mark.parametrize(
    ("missing", "left"),
    [
        ("avx512vnni", (AVX2, TORCH)),
        ("avx512bw", (AVX2, TORCH)),
        ("avx2", (TORCH,)),
        ("fma", (TORCH,)),
    ],
)
def test_a_missing_instruction_takes_its_rung_away(
    missing: str, left: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llvmlite import binding

    names = ["avx2", "fma"]
    if left == (AVX2, TORCH):
        names += ["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"]
    features = {name: name != missing for name in names}
    monkeypatch.setattr(binding, "get_host_cpu_features", lambda: features)

    assert available_rungs() == left


@needs_kernels
def test_kernels_are_loaded_once() -> None:
    loaded = kernels()

    again = load_kernels(available_rungs()[0], cache_dir=default_cache_dir(), progress=refuse)

    assert again is loaded


@needs_kernels
def test_a_process_refuses_the_kernels_of_another_rung() -> None:
    kernels()
    other = AVX2 if available_rungs()[0] == AVX512_VNNI else AVX512_VNNI

    with pytest.raises(RuntimeError, match=f"already loaded other kernels than {other}"):
        load_kernels(other, cache_dir=default_cache_dir(), progress=refuse)


@needs_kernels
@pytest.mark.usefixtures("nothing_loaded")
def test_compiling_is_announced_first(tmp_path: Path) -> None:
    with pytest.raises(CompilingError, match=r"compiling the kernels for this CPU \(avx512-vnni;"):
        load_kernels(AVX512_VNNI, cache_dir=tmp_path, progress=refuse)


@needs_kernels
@pytest.mark.usefixtures("nothing_loaded")
def test_compiling_is_announced_where_it_was_broken_off_before(tmp_path: Path) -> None:
    (kernel_directory(AVX512_VNNI, cache_dir=tmp_path) / "cpu_0").mkdir(parents=True)

    with pytest.raises(CompilingError):
        load_kernels(AVX512_VNNI, cache_dir=tmp_path, progress=refuse)


@needs_kernels
def test_changed_sources_have_a_cache_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kernel_directory(AVX2, cache_dir=tmp_path)
    sources = shutil.copytree(Path(cpu.__path__[0]), tmp_path / "sources")
    monkeypatch.setattr(rungs, "KERNELS", sources)
    assert kernel_directory(AVX2, cache_dir=tmp_path) == before

    (sources / "exp.py").write_text("# changed\n", encoding="utf-8")

    changed = kernel_directory(AVX2, cache_dir=tmp_path)
    assert changed != before
    assert kernel_directory(AVX512_VNNI, cache_dir=tmp_path) not in (before, changed)


@needs_kernels
@pytest.mark.timeout(300)  # compiles, where nothing has before
def test_a_second_process_loads_what_the_first_compiled() -> None:
    kernels()
    rung = available_rungs()[0]
    directory = kernel_directory(rung, cache_dir=default_cache_dir())
    before = files_of(directory)

    second = run_program("-c", LOAD, rung, str(default_cache_dir()))

    assert second.stdout == "hits 1 misses 0\n"
    assert files_of(directory) == before


@pytest.fixture(scope="module")
def avx2_run(
    tmp_path_factory: pytest.TempPathFactory,
) -> subprocess.CompletedProcess[str]:
    """Two models with adapters, computed with the AVX2 kernels in a process of its own."""
    folder = tmp_path_factory.mktemp("avx2")
    models = []
    for family, quantization, names in (
        ("llama", "int8", ("all-r16", "mlp-r7-rslora", "head-r6")),
        ("qwen3", "int4", ("ranks", "down-r1")),
    ):
        model = write_tiny_model(folder / family, family)
        configs = {name: UNLIKE[name] for name in names}
        paths = write_unlike_adapters(model, folder / f"{family}-adapters", configs)
        models.append(f"{model}={quantization}:{','.join(map(str, paths.values()))}")
    return run_program("-m", "tests.support.forced_rung", AVX2, *models)


@has_avx2
@pytest.mark.timeout(300)  # compiles, where nothing has before
def test_the_avx2_rung_has_the_bits_of_the_reference(
    avx2_run: subprocess.CompletedProcess[str],
) -> None:
    lines = avx2_run.stdout.splitlines()

    assert lines[-1] == "OK"
    steps = [int(line.split()[1]) for line in lines if " steps with " in line]
    assert len(steps) == 2
    assert min(steps) > 12


@has_avx2
@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_the_avx2_rung_uses_no_register_of_avx512(
    avx2_run: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    match = re.search(r"^code in (.*)$", avx2_run.stdout, re.MULTILINE)
    assert match

    code = assembly(Path(match[1]), tmp_path)

    assert "%ymm" in code
    assert "vpmaddwd" in code
    assert not WIDE_REGISTERS.search(code)


@needs_kernels
@pytest.mark.skipif(available_rungs()[0] != AVX512_VNNI, reason="needs AVX512-VNNI")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_the_fastest_rung_multiplies_with_its_own_instruction(tmp_path: Path) -> None:
    code = assembly(Path(code_folder(kernels())), tmp_path)

    assert "vpdpbusd" in code
    assert WIDE_REGISTERS.search(code)


def run_program(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the repository's root; its errors are this test's."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def files_of(directory: Path) -> dict[Path, int]:
    """Each file with the time at which it was written."""
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}


def assembly(folder: Path, scratch: Path) -> str:
    """The machine code in a folder of the cache, as text."""
    texts = []
    for path in folder.glob("*.nbc"):
        cached = path.read_bytes()
        module = scratch / f"{path.name}.o"
        module.write_bytes(cached[cached.index(b"\x7fELF") :])  # what follows it does no harm
        texts.append(
            subprocess.run(
                ["objdump", "-d", "--no-show-raw-insn", str(module)],
                capture_output=True, text=True, timeout=200, check=True,
            ).stdout
        )  # fmt: skip
    assert texts
    return "\n".join(texts)
