"""Runs `lorax-client` and `text-generation`, whose old dependencies need an environment apart."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]
PYTHON = ROOT / ".venv-compat" / "bin" / "python"
SCRIPT = ROOT / "tests" / "compat" / "lorax_family_session.py"
HOW_TO_INSTALL = (
    f"{PYTHON} is missing; scripts/test makes it, or: python3 -m venv .venv-compat && "
    ".venv-compat/bin/pip install lorax-client==0.6.3 text-generation==0.7.0"
)

Call = tuple[str, Mapping[str, Any]]


class LoraxFamilySession:
    """An interpreter that has imported `package`, which takes longer than any call."""

    def __init__(self, package: str) -> None:
        assert PYTHON.exists(), HOW_TO_INSTALL
        self._process = subprocess.Popen(
            [PYTHON, SCRIPT, package], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.communicate()

    async def call(self, url: str, *calls: Call) -> list[dict[str, Any]]:
        """Return the answer to each: `{"result": ...}` or `{"error": "Class", "message": ...}`."""
        return await asyncio.to_thread(self._call, url, calls)

    def _call(self, url: str, calls: Sequence[Call]) -> list[dict[str, Any]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        for call, arguments in calls:
            line = json.dumps({"url": url, "call": call, "arguments": arguments})
            self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return [json.loads(self._process.stdout.readline()) for _ in calls]
