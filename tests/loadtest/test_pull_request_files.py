"""JUnit XML and Markdown."""

from __future__ import annotations

from xml.etree import ElementTree

import msgspec

from lorry_loadtest.conclude import exit_code
from lorry_loadtest.gate.gate import judge_gate
from lorry_loadtest.gate.limit import parse_gate
from lorry_loadtest.junit import junit_xml
from lorry_loadtest.markdown import markdown_block
from lorry_loadtest.result import RunResult
from lorry_loadtest.slo import parse_objectives
from lorry_loadtest.write_report import make_result
from tests.loadtest.test_report import INFO
from tests.support.simulated_pairs import simulated_pair
from tests.support.simulated_server import Load, ServerModel, simulate


def result(*, slower: float = 0.0) -> RunResult:
    run = simulate(Load(duration_s=15.0), ServerModel())
    made = make_result([run], info=INFO, objectives=parse_objectives("ttft_p50<60ms"))
    gate = judge_gate(
        *simulated_pair(1, num_requests=400, slower=slower), parse_gate("tpot_mean:+5%")
    )
    return msgspec.structs.replace(made, gate=gate)


def test_each_check_objective_and_limit_is_a_test_case() -> None:
    suite = ElementTree.fromstring(junit_xml(result(slower=0.2)))
    cases = suite.findall("testcase")
    kinds = [case.get("classname") for case in cases]

    assert kinds.count("lorry.validity") == 30
    assert kinds.count("lorry.objectives") == 1
    assert suite.get("tests") == str(len(cases)) == "32"
    (failed,) = [case for case in cases if case.find("failure") is not None]
    assert failed.get("classname") == "lorry.gate"
    assert suite.get("failures") == "1"


def test_the_markdown_block_has_the_answer_the_levels_and_the_gate() -> None:
    text = markdown_block(result(slower=0.2))

    assert text.startswith("### Load test: VALID\n\nMeets TTFT p50 &lt; 60 ms up to 8 streams")
    assert "| 8 streams |" in text
    assert "**regression**" in text
    assert "Up to " in text


def test_exit_codes_tell_success_regression_and_what_cannot_be_used() -> None:
    good, worse = result(), result(slower=0.2)
    invalid = msgspec.structs.replace(
        good, verdict=msgspec.structs.replace(good.verdict, word="INVALID")
    )

    assert exit_code(good) == 0
    assert exit_code(worse) == 1
    assert exit_code(invalid) == 3
