"""Starts the roofline server in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SERVER = Path(__file__).with_name("roofline_server.py")


@contextmanager
def roofline(*, gap_ms: float = 0.0) -> Iterator[str]:
    """Yields its URL; it ends with the block. Raises RuntimeError if it does not start."""
    process = subprocess.Popen(
        [sys.executable, str(SERVER), f"--gap-ms={gap_ms}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = process.stdout.readline().strip()
        if not port:
            raise RuntimeError(f"the roofline server ended with status {process.wait()}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
