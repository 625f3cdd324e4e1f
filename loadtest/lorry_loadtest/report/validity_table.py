"""The verdict in one strip, and all thirty checks as a table with the numbers behind them."""

from __future__ import annotations

from html import escape

from lorry_loadtest.result import RunResult
from lorry_loadtest.validity.checks import CHECKS
from lorry_loadtest.validity.verdict import Verdict

_WORDS = {"pass": "pass", "warn": "WARN", "fail": "FAIL", "unknown": "not measured"}
_MEANING = {
    "VALID": "every check that could be made passed",
    "SUSPECT": "read the figures with the warnings below",
    "INVALID": "do not use these figures",
}
_MOST_REASONS = 4


def verdict_strip(result: RunResult) -> str:
    """The word, why, and what the run was of."""
    verdict = result.verdict
    reasons = "".join(
        f"<li><b>{escape(alarm.name)}</b>: {escape(alarm.finding.value)}"
        f"{f' at {escape(alarm.level)}' if alarm.level else ''}</li>"
        for alarm in verdict.alarms[:_MOST_REASONS]
    )
    rest = len(verdict.alarms) - _MOST_REASONS
    more = f"<li>and {rest} more, in the table of checks</li>" if rest > 0 else ""
    counts = _counts(verdict)
    return (
        f'<div class="verdict {verdict.word.lower()}"><strong>{verdict.word}</strong>'
        f"<div><p>{_MEANING[verdict.word]} · {counts}</p>"
        f"{f'<ul>{reasons}{more}</ul>' if reasons else ''}</div></div>"
    )


def validity_table(verdict: Verdict) -> str:
    """A row per check, in their order."""
    lies = {check.number: check.lie for check in CHECKS}
    rows = "".join(
        f'<tr class="check-{result.finding.status}"><td>{result.number}</td>'
        f'<th class="left">{escape(result.name)}</th>'
        f'<td class="left"><span class="pill {result.finding.status}">{_WORDS[result.finding.status]}</span></td>'
        f'<td class="left wrap">{escape(result.finding.value)}'
        f"{f' <small>at {escape(result.level)}</small>' if result.level else ''}</td>"
        f'<td class="left note">{escape(result.finding.limit)}</td>'
        f'<td class="left note">{escape(lies[result.number])}</td></tr>'
        for result in verdict.results
    )
    head = (
        '<tr><th>#</th><th class="left">Check</th><th class="left"></th>'
        '<th class="left">Found</th><th class="left">Wanted</th>'
        '<th class="left">Without it</th></tr>'
    )
    return f'<div class="scroll"><table class="checks"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'


def _counts(verdict: Verdict) -> str:
    found: list[str] = [result.finding.status for result in verdict.results]
    parts = [f"{found.count('pass')} of {len(found)} checks passed"]
    for status, word in (("fail", "failed"), ("warn", "warn"), ("unknown", "not measured")):
        if found.count(status):
            parts.append(f"{found.count(status)} {word}")
    return ", ".join(parts)
