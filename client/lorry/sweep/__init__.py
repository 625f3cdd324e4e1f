"""Studies of concurrency: the same requests at every load, and what became of each."""

from __future__ import annotations

from lorry.sweep.compare import Comparison, compare
from lorry.sweep.point import SweepPoint
from lorry.sweep.result import SweepResult
from lorry.sweep.run import sweep

__all__ = ["Comparison", "SweepPoint", "SweepResult", "compare", "sweep"]
