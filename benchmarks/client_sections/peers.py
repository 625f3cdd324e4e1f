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
START_S = 60.0
# beyond a measurement's own limit of time
GRACE_S = 30.0


class PeerMissingError(RuntimeError):
    """The environment does not have this client; the message is the interpreter's."""


class Peer:
    """One client in a process of its own. `versions` is what it is made of."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self._process = process
        first = self._answer(START_S)
        if "missing" in first:
            raise PeerMissingError(first["missing"])
        self.versions: dict[str, str] = first["versions"]

    def measure(self, kind: str, url: str, *, limit_s: float, **work: Any) -> Sample | None:
        """`kind` is `closed_loop` or `gathered`, `work` its arguments; None if it takes longer."""
        assert self._process.stdin is not None
        line = json.dumps({"kind": kind, "url": url, "limit_s": limit_s, **work})
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._answer(limit_s + GRACE_S)
        return None if answer is None else Sample(**answer)

    def _answer(self, patience_s: float) -> Any:
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], patience_s)
        line = self._process.stdout.readline() if readable else ""
        if not line:
            raise RuntimeError(f"{self.name} gave no answer within {patience_s:g} s or has ended")
        return json.loads(line)


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
