"""Clients of another environment, measured by `peer_worker.py` under its own interpreter."""

from __future__ import annotations

import json
import select
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from client_sections.closed_loop import Sample

WORKER = Path(__file__).with_name("peer_worker.py")
NAMES = ("openai", "openai-aiohttp", "lorax-client")
PATIENCE_S = 300.0


class PeerMissingError(RuntimeError):
    """The environment does not have this client; the message is the interpreter's."""


class Peer:
    """One client in a process of its own. `versions` is what it is made of."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self._process = process
        first = self._answer()
        if "missing" in first:
            raise PeerMissingError(first["missing"])
        self.versions: dict[str, str] = first["versions"]

    def measure(self, kind: str, url: str, **work: Any) -> Sample:
        """`kind` is `closed_loop` or `gathered`, `work` its arguments."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"kind": kind, "url": url, **work}) + "\n")
        self._process.stdin.flush()
        return Sample(**self._answer())

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], PATIENCE_S)
        line = self._process.stdout.readline() if readable else ""
        if not line:
            raise RuntimeError(f"{self.name} gave no answer within {PATIENCE_S:g} s or has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def peer(name: str, python: str) -> Iterator[Peer]:
    """Runs until the block ends. Raises PeerMissingError, or OSError for a wrong interpreter."""
    process = subprocess.Popen(
        [python, str(WORKER), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Peer(name, process)
    finally:
        process.kill()
        process.communicate()
