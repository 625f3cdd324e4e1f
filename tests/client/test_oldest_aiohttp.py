"""The transport stands on parts of aiohttp below its session: those of the oldest release do, too."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OLDEST = ROOT / ".venv-compat" / "oldest-aiohttp"


def test_the_tests_of_the_pool_pass_with_the_oldest_aiohttp() -> None:
    assert OLDEST.is_dir(), (
        f"{OLDEST} is missing; scripts/test makes it, or: "
        f"pip install --no-deps --target {OLDEST} aiohttp==3.11.0"
    )
    path = os.pathsep.join([str(OLDEST), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import aiohttp, pytest, sys; print(aiohttp.__version__); sys.exit(pytest.main())",
            *("-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
            *("tests/client/test_aiohttp_pool.py", "tests/client/test_aiohttp_pool_ends.py"),
            "tests/client/test_aiohttp_settings.py",
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("3.11.0\n")
