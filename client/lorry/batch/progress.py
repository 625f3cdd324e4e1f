"""How far a run is, and the bar that shows it: tqdm's where it is installed, else a plain one."""

from __future__ import annotations

import importlib
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

REDRAW_S = 0.1
_WIDTH = 24


@dataclass(frozen=True, slots=True)
class Progress:
    """A run at one moment. `total` is None when the input does not tell its length.

    `num_done` counts every finished item, with those that failed and those from the journal;
    `num_tokens` are output tokens of this run, without the journal's.
    """

    num_done: int
    total: int | None
    num_failed: int
    num_from_journal: int
    num_in_flight: int
    num_tokens: int
    elapsed_s: float

    @property
    def tokens_per_s(self) -> float:
        """Output tokens per second since the run began."""
        return self.num_tokens / self.elapsed_s if self.elapsed_s > 0 else 0.0

    def __str__(self) -> str:
        done = f"{self.num_done}" if self.total is None else f"{self.num_done}/{self.total}"
        failed = f", {self.num_failed} failed" if self.num_failed else ""
        return f"{done} done, {self.tokens_per_s:,.0f} tok/s{failed}"


class ProgressDisplay(Protocol):
    """Shows a run while it goes on."""

    def show(self, progress: Progress) -> None: ...

    def close(self, progress: Progress) -> None: ...


def open_display(wish: bool | Callable[[Progress], object]) -> ProgressDisplay | None:
    """What shows a run: the caller's function, a bar where somebody can see one, or nothing."""
    if callable(wish):
        return CallableDisplay(wish)
    in_notebook = "ipykernel" in sys.modules
    if not wish or not (in_notebook or sys.stderr.isatty()):
        return None
    try:
        with warnings.catch_warnings():
            # without ipywidgets tqdm warns and shows its plain bar, which is what is wanted
            warnings.simplefilter("ignore")
            bar = importlib.import_module("tqdm.auto").tqdm
    except ModuleNotFoundError:
        return PlainBar(sys.stderr, time.monotonic)
    return TqdmBar(bar)


class CallableDisplay:
    """Tells a function of every change."""

    def __init__(self, tell: Callable[[Progress], object]) -> None:
        self._tell = tell

    def show(self, progress: Progress) -> None:
        self._tell(progress)

    def close(self, progress: Progress) -> None:
        """Nothing: the function was told of the last change."""


class TqdmBar:
    """tqdm's bar, a widget in a notebook."""

    def __init__(self, bar: Callable[..., Any]) -> None:
        self._make = bar
        self._bar: Any = None  # made with the first progress, which knows the total

    def show(self, progress: Progress) -> None:
        if self._bar is None:
            self._bar = self._make(total=progress.total, unit="req", dynamic_ncols=True)
        shown = {"tok/s": f"{progress.tokens_per_s:,.0f}"}
        if progress.num_failed:
            shown["failed"] = str(progress.num_failed)
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(progress.num_done - self._bar.n)

    def close(self, progress: Progress) -> None:
        self.show(progress)
        self._bar.close()


class PlainBar:
    """One line that is written over, at most ten times a second."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._drawn_at = float("-inf")
        self._length = 0

    def show(self, progress: Progress) -> None:
        now = self._clock()
        if now - self._drawn_at >= REDRAW_S:
            self._drawn_at = now
            self._draw(progress)

    def close(self, progress: Progress) -> None:
        self._draw(progress)
        self._stream.write("\n")
        self._stream.flush()

    def _draw(self, progress: Progress) -> None:
        line = str(progress)
        if progress.total:
            num_full = _WIDTH * progress.num_done // progress.total
            line = f"[{'#' * num_full}{'.' * (_WIDTH - num_full)}] {line}"
        self._stream.write("\r" + line.ljust(self._length))
        self._stream.flush()
        self._length = len(line)
