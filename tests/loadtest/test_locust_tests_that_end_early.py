"""Tests of locust's that somebody ends: by Ctrl-C, or in the web page, where another one follows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lorry_loadtest.mock_server import MockServer
from lorry_loadtest.records import read_records
from tests.loadtest.test_loadtest_cli import FAST, ROOT
from tests.loadtest.test_locustfiles import TWO_CLASSES_LOCUSTFILE
from tests.support.free_port import free_port
from tests.support.mock_llm_server import RunningMock, running_mock

LOCUSTFILE = str(ROOT / "loadtest" / "locustfile.py")


@dataclass(frozen=True, slots=True)
class Locust:
    """A locust that runs, and the file of what it says: a pipe that nobody reads would hold it up."""

    process: subprocess.Popen[bytes]
    log: Path

    def interrupted(self) -> tuple[int, str]:
        """By Ctrl-C, which goes to all processes of the group; the exit code and what was said."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(timeout=30), self.log.read_text()


@contextmanager
def locust(*arguments: str, cwd: Path, locustfile: str = LOCUSTFILE) -> Iterator[Locust]:
    """In a process group of its own, as a shell starts it; it is ended with the block."""
    paths = [str(ROOT / "client"), str(ROOT / "loadtest")]
    log = cwd / "locust.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "locust", "-f", locustfile, "--no-calibration", *arguments],
            cwd=cwd,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            stderr=stderr,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        yield Locust(process, log)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)


def wait_for(mock: RunningMock, num_requests: int) -> None:
    deadline_s = time.monotonic() + 60
    while len(mock.server.served) < num_requests:
        assert time.monotonic() < deadline_s, "the test did not begin"
        time.sleep(0.05)


def report_of(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "report.json").read_text())
    return found


def test_a_test_that_is_interrupted_is_reported_with_its_exit_code(tmp_path: Path) -> None:
    with running_mock(MockServer(times=FAST, fault_every=9, fault="wrong_usage")) as mock:
        load = ("--headless", "--host", mock.url, "-u", "2", "-r", "2", "--max-tokens", "4")
        with locust(*load, "--stop-timeout", "5", "--llm-report", "out", cwd=tmp_path) as running:
            wait_for(mock, 40)
            code, said = running.interrupted()
        num_served = len(mock.server.served)

    assert code == 3, said  # tokens do not add up; to locust every request succeeded
    assert "Report: out/report.html" in said
    assert len(read_records(tmp_path / "out" / "records.jsonl")) == num_served


def test_a_test_that_is_interrupted_while_its_users_start_is_reported_and_says_so(
    tmp_path: Path,
) -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        load = ("--headless", "--host", mock.url, "-u", "500", "-r", "2", "--max-tokens", "4")
        with locust(*load, "--stop-timeout", "5", "--llm-report", "out", cwd=tmp_path) as running:
            wait_for(mock, 40)
            _, said = running.interrupted()

    assert "Report: out/report.html" in said
    page = (tmp_path / "out" / "report.html").read_text()
    assert "The test was ended before all of its users had been started" in page


def test_a_test_that_is_interrupted_before_anything_was_sent_says_that_there_is_no_report(
    tmp_path: Path,
) -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        load = ("--headless", "--host", mock.url, "-u", "1", "-r", "1")
        with locust(
            *load, "--arrival", "constant:0.01", "-t", "200s", "--llm-report", "out", cwd=tmp_path
        ) as running:
            deadline_s = time.monotonic() + 60
            while "All users spawned" not in running.log.read_text():
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
            _, said = running.interrupted()

    assert "no report: the test ended before a request was sent" in said
    assert not (tmp_path / "out").exists()


def test_workers_that_are_interrupted_hand_over_what_they_have(tmp_path: Path) -> None:
    port = str(free_port())
    with running_mock(MockServer(times=FAST)) as mock:
        load = ("--headless", "--host", mock.url, "-u", "2", "-r", "2", "--max-tokens", "4")
        with locust(
            *(*load, "--processes", "2", "--master-bind-port", port, "--master-port", port),
            *("--stop-timeout", "5", "--llm-report", "out"),
            cwd=tmp_path,
        ) as running:
            wait_for(mock, 40)
            _, said = running.interrupted()
        num_served = len(mock.server.served)

    assert "Report: out/report.html" in said
    records = read_records(tmp_path / "out" / "records.jsonl")
    assert len(records) == num_served
    assert {record.worker for record in records} == {0, 1}


def test_each_test_of_the_web_page_has_a_report_of_its_own(tmp_path: Path) -> None:
    port = free_port()
    with running_mock(MockServer(times=FAST)) as mock:
        with locust(
            *("--host", mock.url, "--web-host", "127.0.0.1", "--web-port", str(port)),
            *("--stop-timeout", "5", "--max-tokens", "4", "--llm-report", "out"),
            *("--junit", "junit.xml"),
            cwd=tmp_path,
        ) as running:
            for num_requests in (40, 400):
                swarm(port)
                wait_for(mock, num_requests)
                ask(port, "stop", b"")
            _, said = running.interrupted()
        num_served = len(mock.server.served)

    folders = sorted((tmp_path / "out").iterdir())
    records = [read_records(folder / "records.jsonl") for folder in folders]
    assert len(folders) == 2, said
    assert sum(map(len, records)) == num_served
    assert [report_of(folder)["schema_version"] for folder in folders] == [2, 2]
    assert len(list(tmp_path.glob("junit-*.xml"))) == 2


def test_a_test_of_the_web_page_that_one_report_cannot_be_about_is_stopped(tmp_path: Path) -> None:
    closed = TWO_CLASSES_LOCUSTFILE.replace('    arrival = "constant:10"\n', "")
    (tmp_path / "classes_locustfile.py").write_text(closed)
    port = free_port()
    with (
        running_mock(MockServer(times=FAST)) as mock,
        locust(
            *("--host", mock.url, "--web-host", "127.0.0.1", "--web-port", str(port)),
            *("--stop-timeout", "5", "--llm-report", "out"),
            cwd=tmp_path,
            locustfile="classes_locustfile.py",
        ) as running,
    ):
        swarm(port)
        deadline_s = time.monotonic() + 60
        while json.loads(ask(port, "stats/requests"))["state"] != "stopped":
            assert time.monotonic() < deadline_s, "the test went on"
            time.sleep(0.1)
        _, said = running.interrupted()

    assert "Clumsy wait for their answers" in said
    assert "no report: the test could not be prepared" in said
    assert not (tmp_path / "out").exists()


def swarm(port: int) -> None:
    """As the form of the page does; the page itself needs a moment after the start."""
    form = urllib.parse.urlencode({"user_count": 2, "spawn_rate": 2}).encode()
    deadline_s = time.monotonic() + 60
    while True:
        try:
            answer = json.loads(ask(port, "swarm", form))
            assert answer["success"], answer
            return
        except OSError:
            assert time.monotonic() < deadline_s, "locust's page did not open"
            time.sleep(0.1)


def ask(port: int, path: str, form: bytes | None = None) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", form, timeout=20) as answer:
        body: bytes = answer.read()
        return body
