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

# ctrl-C as it is in the foreground: what runs in a job in the background inherits that it is ignored
PROGRAM = (
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from lorry.cli import main; raise SystemExit(main(sys.argv[1:]))"
)


class Terminal:
    """Runs `lorry` with these arguments on 80 by 24 cells. `shown` is all that it wrote."""

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self.shown = ""
        self._seen = 0
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

    def interrupt_until(self, text: str) -> None:
        """Press ctrl-C at a prompt. readline heeds a signal only while it waits for a key, and
        whether it does so yet cannot be seen, so it is pressed again after a while."""
        for _ in range(10):
            self.interrupt()
            try:
                return self.until(text, timeout_s=2)
            except AssertionError:
                continue
        raise AssertionError(f"no {text!r} after ten times ctrl-C")

    def until(self, text: str, *, timeout_s: float = 30.0) -> None:
        """Read until `text` is shown behind what the last call waited for."""
        ends_at = time.monotonic() + timeout_s
        while (found := self.shown.find(text, self._seen)) < 0:
            assert time.monotonic() < ends_at, f"no {text!r} in {self.shown[self._seen :]!r}"
            if select.select([self._ours], [], [], 0.1)[0]:
                self.shown += self._read()
        self._seen = found + len(text)

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
