"""`time_limit`: gives up Python code of this thread that runs for too long.

A template can loop for years in a few characters, and a thread cannot be ended from outside. Python
can call a function before each line that it executes; ours looks at the clock.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import jinja2


class TimeLimitError(jinja2.TemplateError):
    """The template was given up."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeLimitError in whatever is called inside the block once `seconds` have passed.

    A single operation of the interpreter, such as a product of large numbers, is not interrupted.
    """
    end_s = time.monotonic() + seconds

    def look(frame: FrameType, event: str, argument: Any) -> Any:
        if time.monotonic() > end_s:
            raise TimeLimitError(f"it was given up after {seconds:g} s")
        return look

    before = sys.gettrace()
    sys.settrace(look)
    try:
        yield
    finally:
        sys.settrace(before)
