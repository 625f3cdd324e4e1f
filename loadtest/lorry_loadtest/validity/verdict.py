"""VALID, SUSPECT or INVALID: the worst of all checks over all levels, and its exit code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from lorry_loadtest.headline import load_label
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.summary import LevelSummary, summarize
from lorry_loadtest.validity.checks import CHECKS
from lorry_loadtest.validity.finding import SEVERITY, Check, CheckResult, Evidence

VerdictWord = Literal["VALID", "SUSPECT", "INVALID"]

EXIT_INVALID = 3


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`results` has every check once, with the finding of the level where it is worst."""

    word: VerdictWord
    results: tuple[CheckResult, ...]

    @property
    def exit_code(self) -> int:
        """3 when the figures cannot be used; a SUSPECT run succeeds and says why it is one."""
        return EXIT_INVALID if self.word == "INVALID" else 0

    @property
    def alarms(self) -> tuple[CheckResult, ...]:
        """What failed, then what warns."""
        ordered = sorted(self.results, key=lambda result: -SEVERITY[result.finding.status])
        return tuple(r for r in ordered if r.finding.status in ("fail", "warn"))


def judge(runs: Sequence[LevelRun], summaries: Sequence[LevelSummary]) -> Verdict:
    """`runs` and `summaries` are the same levels, at least one."""
    evidences = [
        Evidence(run, summary, levels=summaries)
        for run, summary in zip(runs, summaries, strict=True)
    ]
    by_class = _by_class(runs) or evidences
    results = tuple(_worst(check, by_class if check.by_class else evidences) for check in CHECKS)
    worst = max(SEVERITY[result.finding.status] for result in results)
    word: VerdictWord = (
        "INVALID"
        if worst == SEVERITY["fail"]
        else "SUSPECT"
        if worst == SEVERITY["warn"]
        else "VALID"
    )
    return Verdict(word=word, results=results)


def _by_class(runs: Sequence[LevelRun]) -> list[Evidence]:
    """Empty where there is one user class."""
    parts = [part for run in runs for part in run.parts]
    summaries = [summarize(part) for part in parts]
    return [
        Evidence(part, summary, levels=summaries)
        for part, summary in zip(parts, summaries, strict=True)
    ]


def _worst(check: Check, evidences: Sequence[Evidence]) -> CheckResult:
    found = [(check.find(evidence), evidence) for evidence in evidences]
    finding, evidence = max(found, key=lambda entry: SEVERITY[entry[0].status])
    # what all levels say alike, hysteresis for one, is not of one of them
    several = finding.status in ("fail", "warn") and any(other != finding for other, _ in found)
    return CheckResult(
        number=check.number,
        name=check.name,
        finding=finding,
        level=(evidence.run.name or load_label(evidence.summary)) if several else "",
    )
