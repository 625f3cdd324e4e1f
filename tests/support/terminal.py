"""A command at a terminal: a pseudo-terminal that is read until something is shown."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

PROGRAM = "import sys; from lorry.cli import main; raise SystemExit(main(sys.argv[1:]))"


class Terminal:
    """Runs `lorry` with these arguments on 80 by 24 cells. `shown` is all that it wrote."""

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.shown = ""
        self._ours, theirs = pty.openpty()
        os.set_blocking(self._ours, True)
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24", **(env or {})},
            start_new_session=True,
        )
        os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)
        os.close(self._ours)

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def interrupt(self) -> None:
        """What ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def until(self, text: str, *, timeout_s: float = 30.0) -> str:
        """Read until `text` is shown; return what was shown up to there since the last call."""
        ends_at = time.monotonic() + timeout_s
        start = len(self.shown)
        while text not in self.shown[start:]:
            assert time.monotonic() < ends_at, f"{text!r} was not shown: {self.shown[start:]!r}"
            if select.select([self._ours], [], [], 0.1)[0]:
                self.shown += self._read()
        return self.shown[start:]

    def wait(self) -> int:
        """Read to the end and return the exit code."""
        while piece := self._read():
            self.shown += piece
        return self._process.wait(30)

    def _read(self) -> str:
        try:
            return os.read(self._ours, 65536).decode(errors="replace")
        except OSError:  # Linux's way to say that the other end was closed
            return ""
