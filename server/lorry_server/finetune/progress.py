"""A bar where somebody watches, a line now and then where the output is a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tqdm import tqdm

LINES_PER_RUN = 20


class Progress(Protocol):
    def advance(self, step: int, *, loss: float) -> None: ...

    def say(self, line: str) -> None: ...


@contextmanager
def progress_of(num_steps: int, *, done: int) -> Iterator[Progress]:
    """On standard error; `done` steps were made by the run that is resumed."""
    if not sys.stderr.isatty():
        yield _Lines(num_steps)
        return
    with tqdm(total=num_steps, initial=done, unit="step", dynamic_ncols=True) as bar:
        yield _Bar(bar)


class _Bar:
    def __init__(self, bar: tqdm[None]) -> None:
        self._bar = bar

    def advance(self, step: int, *, loss: float) -> None:
        self._bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        self._bar.update(step - self._bar.n)

    def say(self, line: str) -> None:
        self._bar.write(line, file=sys.stderr)


class _Lines:
    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._stride = max(1, num_steps // LINES_PER_RUN)

    def advance(self, step: int, *, loss: float) -> None:
        if step % self._stride == 0 or step == self._num_steps:
            self.say(f"step {step}/{self._num_steps}  loss {loss:.3f}")

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)
