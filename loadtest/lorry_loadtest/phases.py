"""What an attempt was made for: only those of the run itself are measured."""

from __future__ import annotations

from typing import Literal

# `learn`: a canary's known answer, asked for on the idle server before the run.
# `calibrate`: an attempt at the mock server, whose token times are known.
Phase = Literal["run", "learn", "calibrate"]
