"""A run as JUnit XML: each check, objective and limit of a gate is a test case."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree import ElementTree

from lorry_loadtest.gate.lines import gate_table
from lorry_loadtest.headline import load_label
from lorry_loadtest.result import RunResult

Case = tuple[str, str, str, str]  # class name, name, "passed" or what it is instead, text


def junit_xml(result: RunResult) -> str:
    """One test suite. Warnings pass with their text as output; what is unknown is skipped."""
    cases = [*_checks(result), *_objectives(result), *_gate(result)]
    suite = ElementTree.Element("testsuite", name="lorry loadtest", tests=str(len(cases)))
    counts = {"failure": 0, "skipped": 0}
    for class_name, name, status, text in cases:
        case = ElementTree.SubElement(suite, "testcase", classname=class_name, name=name)
        if status == "passed":
            ElementTree.SubElement(case, "system-out").text = text
        else:
            ElementTree.SubElement(case, status, message=text)
            counts[status] += 1
    suite.set("failures", str(counts["failure"]))
    suite.set("skipped", str(counts["skipped"]))
    suite.set("errors", "0")
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _checks(result: RunResult) -> Iterable[Case]:
    kinds = {"pass": "passed", "warn": "passed", "fail": "failure", "unknown": "skipped"}
    for check in result.verdict.results:
        finding = check.finding
        text = f"{finding.status}: {finding.value} ({finding.limit}) {check.level}".strip()
        yield ("lorry.validity", f"{check.number} {check.name}", kinds[finding.status], text)


def _objectives(result: RunResult) -> Iterable[Case]:
    """With a search or several levels objectives are questions, and only one level makes a test."""
    if len(result.levels) > 1:
        return
    for level in result.levels:
        for objective in level.objectives:
            kind = {True: "passed", False: "failure", None: "skipped"}[objective.met]
            yield ("lorry.objectives", str(objective.objective), kind, f"at {load_label(level)}")


def _gate(result: RunResult) -> Iterable[Case]:
    for gated in result.gate:
        kind = "passed" if gated.status == "pass" else "failure"
        yield ("lorry.gate", str(gated.limit), kind, gate_table([gated]))
