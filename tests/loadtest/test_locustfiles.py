"""Locustfiles of one's own, with shapes and several classes, and what an open loop cannot be asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorry_loadtest.cli import main
from lorry_loadtest.mock_server import MockServer
from lorry_loadtest.records import read_records
from tests.loadtest.test_loadtest_cli import FAST, run_python
from tests.support.mock_llm_server import running_mock


def test_a_trace_has_lengths_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00,5,5\n")

    with pytest.raises(SystemExit):
        main(["--arrival", f"trace:{trace}", "--max-tokens", "4", "--out", str(tmp_path)])

    assert "a trace has lengths of its own: leave out --max-tokens" in capsys.readouterr().err


TWO_CLASSES_LOCUSTFILE = """
from locust import task
from lorry_loadtest.locust_options import add_options
from lorry_loadtest.users import LLMUser


class Short(LLMUser):
    arrival = "poisson:40"
    lengths = 2

    @task
    def ask(self):
        self.generate()


class Clumsy(LLMUser):
    arrival = "constant:10"
    lengths = 4

    @task
    def ask(self):
        self.generate()
        raise RuntimeError("dropped the answer")


add_options()
"""


def test_two_open_loops_run_beside_each_other_and_a_failing_task_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "two_locustfile.py").write_text(TWO_CLASSES_LOCUSTFILE)
    with running_mock(MockServer(times=FAST)) as mock:
        done = run_python(
            *("-m", "locust", "-f", "two_locustfile.py", "--headless", "--host", mock.url),
            *("-u", "2", "-r", "2", "-t", "3s", "--stop-timeout", "5", "--llm-report", "out"),
            "--no-calibration",
            cwd=tmp_path,
        )

    assert "RuntimeError: dropped the answer" in done.stderr
    records = read_records(tmp_path / "out" / "records.jsonl")
    assert {record.scenario for record in records} == {"Short", "Clumsy"}
    assert {record.outcome for record in records} == {"ok"}
    prompts = [record.prompt_hash for record in records]
    assert len(set(prompts)) == len(prompts)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    checks = {result["number"]: result["finding"] for result in report["verdict"]["results"]}
    assert [checks[number]["status"] for number in (14, 19, 28)] == ["pass"] * 3, checks
    assert "/s, CV " in checks[19]["value"], "held to no law"
    assert report["info"]["max_tokens"] == "2; 4"


def test_classes_that_one_report_cannot_be_about_are_refused_by_name(tmp_path: Path) -> None:
    closed = TWO_CLASSES_LOCUSTFILE.replace('    arrival = "constant:10"\n', "")
    twins = TWO_CLASSES_LOCUSTFILE.replace("    lengths", '    scenario = "twin"\n    lengths')
    said = []
    with running_mock(MockServer(times=FAST)) as mock:
        for text in (closed, twins):
            (tmp_path / "classes_locustfile.py").write_text(text)
            done = run_python(
                *("-m", "locust", "-f", "classes_locustfile.py", "--headless", "--host", mock.url),
                *("-u", "2", "-r", "2", "-t", "3s", "--llm-report", "out", "--no-calibration"),
                cwd=tmp_path,
            )
            assert done.returncode != 0
            said.append(done.stderr)

    assert "Clumsy wait for their answers (a closed loop) and Short do not" in said[0]
    assert "two user classes have the scenario 'twin'" in said[1]
    assert not (tmp_path / "out").exists()


ROWS_LOCUSTFILE = """
from locust import task
from lorry_loadtest.locust_options import add_options
from lorry_loadtest.users import LLMUser


class MoreRows(LLMUser):
    lengths = 8

    @task
    def ask(self):
        attempted = self.generate()
        for name in ("TTFT", "TPOT"):
            self.environment.events.request.fire(
                request_type="METRIC", name=name, response_time=1.0, response_length=0,
                exception=None, context={},
            )


add_options()
"""


def test_figures_that_are_told_to_locust_as_requests_fire_the_checks_of_its_table(
    tmp_path: Path,
) -> None:
    (tmp_path / "rows_locustfile.py").write_text(ROWS_LOCUSTFILE)
    with running_mock(MockServer(times=FAST)) as mock:
        run_python(
            *("-m", "locust", "-f", "rows_locustfile.py", "--headless", "--host", mock.url),
            *("-u", "2", "-r", "2", "-t", "3s", "--stop-timeout", "5", "--llm-report", "out"),
            "--no-calibration",
            cwd=tmp_path,
        )

    report = json.loads((tmp_path / "out" / "report.json").read_text())
    checks = {result["number"]: result["finding"] for result in report["verdict"]["results"]}
    assert [checks[number]["status"] for number in (20, 28)] == ["fail", "fail"], checks


SHAPE_LOCUSTFILE = """
from locust import task
from lorry_loadtest.shapes import RatesShape
from lorry_loadtest.users import LLMUser


class Steps(RatesShape):
    users = "1x1s,3x2s"


class Chat(LLMUser):
    lengths = 4

    @task
    def ask(self):
        self.generate()
"""


def test_a_shape_gives_the_users_of_a_closed_loop(tmp_path: Path) -> None:
    (tmp_path / "shape_locustfile.py").write_text(SHAPE_LOCUSTFILE)
    with running_mock(MockServer(times=FAST)) as mock:
        done = run_python(
            *("-m", "locust", "-f", "shape_locustfile.py", "--headless", "--host", mock.url),
            *("--stop-timeout", "5"),
            cwd=tmp_path,
        )
        num_connections = mock.server.num_connections

    assert "Traceback" not in done.stderr, done.stderr
    assert num_connections == 3 + 1  # three users, and who asked for the list of models
