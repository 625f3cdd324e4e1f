"""A `lorry serve` of one's own: started as a process on a free port, stopped with SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

READY = "ready on "


class ServerFailedError(RuntimeError):
    """The server ended, or was not ready in time; the message has what it said last."""


@contextmanager
def local_server(
    arguments: Sequence[str] = (),
    *,
    start_timeout_s: float = 180.0,
    stop_timeout_s: float = 60.0,
    show: Callable[[str], None] = lambda line: None,
) -> Iterator[str]:
    """Start `lorry serve --port 0` with more `arguments`; yield its URL; stop it at the end.

    `show` gets every line that the server writes before it is ready. Raises ServerFailedError
    when it does not become ready, and when it does not end with status 0.
    """
    command = [str(Path(sys.executable).parent / "lorry"), "serve", "--port", "0", *arguments]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stderr=log, stdout=log)
        try:
            yield _wait_until_ready(process, log.fileno(), start_timeout_s, show)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            status = process.wait(timeout=stop_timeout_s)
        if status != 0:
            raise ServerFailedError(f"the server ended with status {status}: {_tail(log.fileno())}")


def _wait_until_ready(
    process: subprocess.Popen[bytes],
    log: int,
    start_timeout_s: float,
    show: Callable[[str], None],
) -> str:
    deadline_s = time.monotonic() + start_timeout_s
    offset = 0
    while time.monotonic() < deadline_s:
        chunk = os.pread(log, 1 << 20, offset)
        complete = chunk[: chunk.rfind(b"\n") + 1]
        offset += len(complete)
        for line in complete.decode(errors="replace").splitlines():
            show(line)
            if READY in line:
                return line.split(READY, 1)[1].split()[0]
        if process.poll() is not None:
            raise ServerFailedError(
                f"the server ended with status {process.returncode}: {_tail(log)}"
            )
        time.sleep(0.02)
    process.kill()
    raise ServerFailedError(f"the server was not ready after {start_timeout_s} s: {_tail(log)}")


def _tail(log: int) -> str:
    size = os.fstat(log).st_size
    return os.pread(log, 2000, max(0, size - 2000)).decode(errors="replace").strip()
