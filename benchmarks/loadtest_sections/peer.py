"""Clients of another environment, measured by their script in `loadtest_clients` under its Python."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import gevent

from loadtest_sections.clients import served_times
from loadtest_sections.load import Load
from loadtest_sections.row import Figures, figures_of

SCRIPTS = Path(__file__).parents[1] / "loadtest_clients"
_START_S = 120.0
# beyond the length of the load: a client that cannot keep up goes on until it has read everything
_GRACE_S = 60.0


class PeerError(RuntimeError):
    """The client is not there, or did not answer; the message has what it said last."""


class Peer:
    """One client in a process of its own. `version` is of the package that it is in."""

    def __init__(self, process: subprocess.Popen[str], log: BinaryIO) -> None:
        self._process = process
        self._log = log
        self.version = str(self._answer(_START_S)["version"])

    def figures(self, url: str, load: Load) -> Figures:
        """Raises PeerError, or ValueError when no stream came through."""
        assert self._process.stdin is not None
        job = {"url": url, "num_tokens": load.num_tokens, "times_ns": list(load.times_ns)}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        told = self._answer(load.seconds + _GRACE_S)
        return figures_of(
            served_times(url),
            told["stamps"],
            num_asked=len(load.times_ns),
            cpu_s=told["cpu_s"],
        )

    def _answer(self, patience_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        with gevent.Timeout(patience_s, PeerError(f"no answer within {patience_s:g} s")):
            line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            said = self._log.read().decode(errors="replace").strip().splitlines()
            raise PeerError(said[-1] if said else "it ended and said nothing")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def peer(script: str, python: str) -> Iterator[Peer]:
    """Runs until the block ends. Raises PeerError, and OSError for a wrong interpreter."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [python, str(SCRIPTS / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            yield Peer(process, log)
        finally:
            process.kill()
            process.wait()
