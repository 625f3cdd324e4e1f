"""What a check looks at and what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.run_facts import RunFacts
from lorry_loadtest.summary import LevelSummary

# `unknown`: what the check needs was not measured. It is shown, and alarms nobody.
Status = Literal["pass", "warn", "fail", "unknown"]
SEVERITY: dict[Status, int] = {"unknown": 0, "pass": 1, "warn": 2, "fail": 3}


@dataclass(frozen=True, slots=True)
class Evidence:
    """One level with its figures; `levels` are the figures of all levels of the run."""

    run: LevelRun
    summary: LevelSummary
    levels: Sequence[LevelSummary] = ()

    @property
    def facts(self) -> RunFacts:
        return self.run.facts

    @property
    def is_past_capacity(self) -> bool:
        """Whether the server fell behind at this level and kept up at another.

        A sweep or a search has such levels to find where capacity ends; nothing is steady there.
        """
        return self.summary.falls_behind and any(not level.falls_behind for level in self.levels)

    def chance(self, p: float) -> float:
        """The limit of a p-value: as many levels as are looked at share one chance of a false alarm.

        Bonferroni's correction, so that a long sweep is not suspect for its length.
        """
        return p / max(1, len(self.levels))


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """`value` is the number behind the status as text with its unit, `limit` what it may be."""

    status: Status
    value: str
    limit: str


class CheckResult(msgspec.Struct, frozen=True, kw_only=True):
    """A finding with its check; `level` says of which level it is the worst."""

    number: int
    name: str
    finding: Finding
    level: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """`number` and `name` are those of docs/loadtest-validity.md; `lie` is what it guards against.

    One that holds requests to what was declared of them looks at each user class by itself.
    """

    number: int
    name: str
    lie: str
    find: Callable[[Evidence], Finding]
    by_class: bool = False


def judged(value: float, *, warn: float, fail: float, text: str, limit: str) -> Finding:
    """Above `warn` it warns, above `fail` it fails. For what must not be small, give minus values."""
    status: Status = "fail" if value > fail else "warn" if value > warn else "pass"
    return Finding(status=status, value=text, limit=limit)


def unknown(why: str, *, limit: str) -> Finding:
    return Finding(status="unknown", value=why, limit=limit)


PAST_CAPACITY = "the server fell behind here, which is what this level is to show"
