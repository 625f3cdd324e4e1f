"""The command and the locustfile; whatever imports locust runs in a process of its own."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lorry_loadtest.cli import main
from lorry_loadtest.mock_faults import Fault
from lorry_loadtest.mock_server import MockServer
from lorry_loadtest.mock_stream import MockTimes
from lorry_loadtest.observations import read_observations
from lorry_loadtest.records import read_records
from tests.support.exit_of_a_load import assert_ended_with
from tests.support.mock_llm_server import running_mock

ROOT = Path(__file__).parents[2]
FAST = MockTimes(first_ms=5, gap_ms=1)


def run_python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT / "client"), str(ROOT / "loadtest")]
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def run_loadtest(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    program = "import sys; from lorry_loadtest.cli import main; sys.exit(main(sys.argv[1:]))"
    return run_python("-c", program, *arguments, cwd=cwd)


def test_a_sweep_writes_its_report_and_succeeds(tmp_path: Path) -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        done = run_loadtest(
            *("--url", mock.url, "--concurrency", "1,3", "--duration", "0.6", "--warmup", "0.2"),
            *("--max-tokens", "4:8", "--base-share", "0.3", "--api-key", "secret", "--out", "out"),
            "--no-calibration",
            cwd=tmp_path,
        )
        num_served = len(mock.server.served)

    assert_ended_with(0, done, tmp_path / "out")
    records = read_records(tmp_path / "out" / "records.jsonl")
    assert len(records) == num_served
    assert {record.level for record in records} == {1, 3}
    assert {record.adapter for record in records} == {None, "alpha", "beta"}
    assert {record.user for record in records if record.level == 3} == {0, 1, 2}
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [level["concurrency"] for level in report["levels"]] == [1, 3]
    assert "secret" not in (tmp_path / "out" / "report.html").read_text()
    assert "Up to" in done.stdout


class Tiring(MockServer):
    """Takes longer with each request that it was sent."""

    def fault_of(self, number: int) -> Fault | None:
        self.times = MockTimes(first_ms=5, gap_ms=1 + 0.1 * number)
        return None


def test_a_server_that_tires_is_found_on_the_way_down(tmp_path: Path) -> None:
    with running_mock(Tiring()) as mock:
        run_loadtest(
            *("--url", mock.url, "--sweep", "concurrency:1..2:log2", "--duration", "1.5"),
            *("--warmup", "0", "--max-tokens", "8", "--out", "out", "--no-calibration"),
            cwd=tmp_path,
        )

    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (hysteresis,) = [r for r in report["verdict"]["results"] if r["number"] == 29]
    assert hysteresis["finding"]["status"] in ("warn", "fail"), hysteresis


def test_a_failed_request_fails_the_sweep(tmp_path: Path) -> None:
    with running_mock(MockServer(times=FAST, faults={3: "cut"})) as mock:
        done = run_loadtest(
            *("--url", mock.url, "--concurrency", "2", "--duration", "0.4", "--warmup", "0"),
            *("--max-tokens", "4", "--out", "out", "--no-calibration"),
            cwd=tmp_path,
        )

    assert_ended_with(1, done, tmp_path / "out")
    assert "1 of" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["levels"][0]["ledger"]["truncated"] == 1


def test_requests_cut_off_by_the_drain_limit_stay_in_the_ledger(tmp_path: Path) -> None:
    with running_mock(MockServer(times=MockTimes(first_ms=1, gap_ms=60_000))) as mock:
        done = run_loadtest(
            *("--url", mock.url, "--concurrency", "2", "--duration", "0.5", "--warmup", "0"),
            *("--drain", "0", "--max-tokens", "4", "--out", "out", "--no-calibration"),
            cwd=tmp_path,
        )

    assert done.returncode == 3, done.stderr  # nothing was measured
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["levels"][0]["ledger"] == {"cancelled": 2}


def test_the_locustfile_runs_under_locust_with_one_event_per_attempt(tmp_path: Path) -> None:
    with running_mock(MockServer(times=FAST, faults={2: "http_500"})) as mock:
        done = run_python(
            *("-m", "locust", "-f", str(ROOT / "loadtest" / "locustfile.py"), "--headless"),
            *("--host", mock.url, "-u", "2", "-r", "2", "-t", "3s", "--stop-timeout", "5"),
            *("--max-tokens", "4", "--llm-report", "out", "--json-file", "stats"),
            "--no-calibration",
            cwd=tmp_path,
        )
        num_served = len(mock.server.served)

    assert done.returncode in (1, 3), done.stderr  # 3: a busy machine is no place to measure
    (row,) = json.loads((tmp_path / "stats.json").read_text())
    assert (row["num_requests"], row["num_failures"]) == (num_served, 1)
    assert len(read_records(tmp_path / "out" / "records.jsonl")) == num_served


def test_the_locustfile_of_the_readme_runs(tmp_path: Path) -> None:
    readme = (ROOT / "loadtest" / "README.md").read_text()
    (tmp_path / "chat_locustfile.py").write_text(readme.split("```python\n")[1].split("```")[0])
    with running_mock(MockServer(times=FAST)) as mock:
        done = run_python(
            *("-m", "locust", "-f", "chat_locustfile.py", "--headless", "--host", mock.url),
            *("-u", "8", "-r", "8", "-t", "3s", "--stop-timeout", "5"),
            cwd=tmp_path,
        )
        bodies = [served.body for served in mock.server.served]

    # not the exit code: locust may kill a waiting user that has just begun its next request
    assert "Traceback" not in done.stderr
    # a slow machine sends too few in the time for each to be drawn
    models = {body["model"] for body in bodies}
    assert len(models) > 1
    assert models <= {"pirate", "pricing", "mock-base"}
    assert {body["messages"][0]["content"] for body in bodies} == {
        "Where is my parcel?",
        "What does the large box cost?",
    }


def test_workers_send_the_planned_stream_and_the_master_reports_it(tmp_path: Path) -> None:
    scenario = ROOT / "loadtest" / "lorry_loadtest" / "scenarios" / "adapters_zipf.py"
    with running_mock(MockServer(times=FAST)) as mock:
        done = run_python(
            *("-m", "locust", "-f", str(scenario), "--headless", "--host", mock.url),
            *("--processes", "2", "-u", "2", "-r", "2", "-t", "4s", "--stop-timeout", "5"),
            *("--arrival", "poisson:20", "--llm-report", "out", "--no-calibration"),
            *("--json-file", "stats"),
            cwd=tmp_path,
        )

    assert "Traceback" not in done.stderr, done.stderr
    observations = read_observations(tmp_path / "out" / "observations-0.json")
    records = [r for r in read_records(tmp_path / "out" / "records.jsonl") if r.phase == "run"]
    assert observations.sent_hash == observations.stream_hash
    assert [report.worker for report in observations.workers] == [0, 1]
    assert all(report.host and report.most_streams for report in observations.workers)
    assert len(records) == observations.num_planned
    assert {record.worker for record in records} == {0, 1}
    assert {record.outcome for record in records} == {"ok"}
    (row,) = json.loads((tmp_path / "stats.json").read_text())
    assert row["num_requests"] == len(records)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    checks = {result["number"]: result["finding"] for result in report["verdict"]["results"]}
    assert [checks[number]["status"] for number in (14, 19, 28)] == ["pass"] * 3, checks


def test_a_scenario_of_an_open_loop_runs_with_calibration(tmp_path: Path) -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        done = run_loadtest(
            *("--url", mock.url, "--scenario", "long_and_short", "--arrival", "poisson:30"),
            *("--duration", "1", "--warmup", "0.2", "--out", "out"),
            cwd=tmp_path,
        )

    assert_ended_with(0, done, tmp_path / "out")
    assert "calibration: TTFT error p99" in done.stdout
    observations = read_observations(tmp_path / "out" / "observations-0.json")
    records = read_records(tmp_path / "out" / "records.jsonl")
    assert observations.sent_hash == observations.stream_hash
    assert observations.stream_hash in done.stdout
    assert {record.scenario for record in records} == {"long_and_short"}
    assert {record.max_tokens for record in records} == {16, 256}


def test_calibrate_prints_this_clients_error(tmp_path: Path) -> None:
    done = run_loadtest("calibrate", "--duration", "0.5", "--tokens", "5", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    assert "calibration: TTFT error p99" in done.stdout
    assert "by a client without kernel stamps" in done.stdout


def test_every_scenario_makes_its_plan_and_is_explained(tmp_path: Path) -> None:
    program = """
from lorry_loadtest.scenario_classes import user_class_of
from lorry_loadtest.scenarios import SCENARIOS
from lorry_loadtest.settings import settings_of
from lorry_loadtest.catalog import Catalog
for name in SCENARIOS:
    settings = settings_of(user_class_of(name), None)
    assert settings.scenario == name
    workload = settings.workload(Catalog("base", ("a", "b")))
    planned = [workload.request_at(i, times_ns=range(0, 60 * 10**9, 10**9)) for i in range(60)]
    print(name, len({request.prompt_hash for request in planned}))
"""
    done = run_python("-c", program, cwd=tmp_path)
    explained = (ROOT / "docs" / "loadtest.md").read_text()

    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert len(names) == 8
    assert all(f"`{name}`" in explained for name in names)


SDK_LOCUSTFILE = """
from locust import task
from lorry_loadtest.locust_options import add_options
from lorry_loadtest.users import SDKUser


class ThroughTheSDK(SDKUser):
    lengths = "4:8"
    canary_share = 0.2

    @task
    def ask(self):
        self.generate()


add_options()
"""


def test_users_of_the_sdk_are_recorded_as_that_and_its_cost_is_printed(tmp_path: Path) -> None:
    (tmp_path / "sdk_locustfile.py").write_text(SDK_LOCUSTFILE)
    with running_mock(MockServer(times=FAST)) as mock:
        done = run_python(
            *("-m", "locust", "-f", "sdk_locustfile.py", "--headless", "--host", mock.url),
            *("-u", "2", "-r", "2", "-t", "2s", "--stop-timeout", "5", "--llm-report", "out"),
            cwd=tmp_path,
        )

    assert done.returncode in (0, 3), done.stderr
    assert "SDK overhead, median of 2 pairs" in done.stderr
    records = [r for r in read_records(tmp_path / "out" / "records.jsonl") if r.phase == "run"]
    assert {record.client for record in records} == {"sdk"}
    assert all(r.usage_completion == sum(r.event_tokens) == r.max_tokens for r in records)
    assert any(record.canary for record in records)


def test_a_run_is_compared_with_the_one_before_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (
        *("--concurrency", "3", "--duration", "2", "--warmup", "0.2", "--max-tokens", "4:8"),
        *("--ignore-eos", "--no-calibration"),
    )
    with running_mock(MockServer(times=FAST)) as mock:
        first = run_loadtest("--url", mock.url, *command, "--out", "a", cwd=tmp_path)
        second = run_loadtest(
            *("--url", mock.url, *command, "--out", "b", "--baseline", "a"),
            *("--gate", "tpot_mean:+400%", "--junit", "junit.xml", "--markdown", "comment.md"),
            *("--metrics-compat", "vllm"),
            cwd=tmp_path,
        )
    a, b = str(tmp_path / "a"), str(tmp_path / "b")

    assert first.returncode in (0, 3), first.stderr  # 3: a busy machine is no place to measure
    assert "PASS        TPOT mean +400 %" in second.stdout, second.stderr
    assert "By the formulas of vllm" in second.stdout
    assert "lorry.gate" in (tmp_path / "junit.xml").read_text()
    assert "### Load test:" in (tmp_path / "comment.md").read_text()
    # these load nothing, and patch nothing
    main(["compare", a, b, "--gate", "tpot_mean:+400%"])
    assert "PASS        TPOT mean +400 %" in capsys.readouterr().out
    assert main(["compare", a, str(tmp_path / "missing")]) == 2
    assert "missing" in capsys.readouterr().err
    assert main(["explain", "7", "--run", b]) == 0
    assert capsys.readouterr().out.startswith("Request ")
    assert main(["explain", "nobody", "--run", b]) == 2
    assert "no request 'nobody'" in capsys.readouterr().err


def run_locust(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    locustfile = str(ROOT / "loadtest" / "locustfile.py")
    return run_python(
        *("-m", "locust", "-f", locustfile, "--headless", "-u", "3", "-r", "3", "-t", "3s"),
        *("--stop-timeout", "5", "--no-calibration", *arguments),
        cwd=cwd,
    )


def test_a_test_of_locusts_is_judged_and_compared_like_a_run_of_ours(tmp_path: Path) -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        load = ("--host", mock.url, "--max-tokens", "4:8", "--ignore-eos")
        first = run_locust(*load, "--llm-report", "a", cwd=tmp_path)
        second = run_locust(
            *(*load, "--llm-report", "b", "--baseline", "a", "--gate", "tpot_mean:+400%"),
            *("--slo", "ttft_p95<10s", "--junit", "junit.xml", "--markdown", "comment.md"),
            *("--metrics-compat", "vllm"),
            cwd=tmp_path,
        )

    assert first.returncode in (0, 3), first.stderr
    assert "PASS        TPOT mean +400 %" in second.stderr, second.stderr
    assert "By the formulas of vllm" in second.stderr
    assert "Verdict: " in second.stderr
    report = json.loads((tmp_path / "b" / "report.json").read_text())
    assert report["levels"][0]["objectives"][0]["met"] is True
    assert "lorry.gate" in (tmp_path / "junit.xml").read_text()
    assert "### Load test:" in (tmp_path / "comment.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--sweep", "rate:1..2:log2"), "use `lorry loadtest --sweep rate:1..2:log2`"),
        (("--find-max", "ttft_p95<1s"), "use `lorry loadtest --find-max ttft_p95<1s`"),
        (("--junit", "junit.xml"), "--junit needs --llm-report DIR"),
        (("--llm-report", "out", "--gate", "tpot_p95:+5%"), "--gate needs a --baseline"),
    ],
)
def test_what_one_test_of_locusts_cannot_do_is_refused_by_name(
    arguments: tuple[str, ...], complaint: str, tmp_path: Path
) -> None:
    done = run_locust("--host", "http://127.0.0.1:9", *arguments, cwd=tmp_path)

    assert done.returncode != 0
    assert complaint in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_level_of_a_search_is_sent_again_by_its_place_in_the_report(tmp_path: Path) -> None:
    """Which is in the order of rates, and not that in which the search made them."""
    with running_mock(MockServer(times=MockTimes(first_ms=5, gap_ms=1, slowdown=0.2))) as mock:
        run_loadtest(
            *("--url", mock.url, "--find-max", "ttft_p50<20ms", "--duration", "0.5"),
            *("--warmup", "0", "--max-tokens", "8", "--out", "a", "--no-calibration"),
            cwd=tmp_path,
        )
        levels = json.loads((tmp_path / "a" / "report.json").read_text())["levels"]
        moved = next(k for k, level in enumerate(levels) if level["stream"] != k)
        again = run_loadtest("replay", "a", "--level", str(moved), "--out", "b", cwd=tmp_path)

    assert again.returncode in (0, 1, 3), again.stderr
    (level,) = json.loads((tmp_path / "b" / "report.json").read_text())["levels"]
    assert level["stream"] == levels[moved]["stream"]
    assert sum(level["ledger"].values()) == sum(levels[moved]["ledger"].values())


def test_a_recorded_stream_is_sent_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        run_loadtest(
            *("--url", mock.url, "--concurrency", "1,3", "--duration", "1", "--warmup", "0.2"),
            *("--max-tokens", "4:8", "--out", "a", "--no-calibration"),
            cwd=tmp_path,
        )
        again = run_loadtest("replay", "a", "--level", "1", "--out", "b", cwd=tmp_path)
    first = [r for r in read_records(tmp_path / "a" / "records.jsonl") if r.level == 3]
    second = read_records(tmp_path / "b" / "records.jsonl")

    assert again.returncode in (0, 3), again.stderr
    asked = {r.index: (r.adapter, r.max_tokens, r.prompt_hash) for r in first}
    for record in second:
        assert (record.adapter, record.max_tokens, record.prompt_hash) == asked[record.index]
    assert len(second) >= 0.9 * len(first)
    assert main(["replay", str(tmp_path / "a"), "--level", "2"]) == 2
    assert "--level 2: the run has 2, from 0" in capsys.readouterr().err


def test_a_sweep_of_rates_goes_up_and_down(tmp_path: Path) -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        done = run_loadtest(
            *("--url", mock.url, "--sweep", "rate:20..40:log2", "--duration", "0.8"),
            *("--warmup", "0", "--max-tokens", "4", "--out", "out", "--no-calibration"),
            cwd=tmp_path,
        )

    report = json.loads((tmp_path / "out" / "report.json").read_text())
    loads = [(level["rate_per_s"], level["descending"]) for level in report["levels"]]
    assert loads == [(20.0, False), (40.0, False), (20.0, True)], done.stderr
    assert "20 req/s, again" in done.stdout


def test_a_server_that_is_not_there_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as placeholder:
        placeholder.bind(("127.0.0.1", 0))
        port = placeholder.getsockname()[1]
        code = main(["--url", f"http://127.0.0.1:{port}", "--out", str(tmp_path)])

    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"lorry loadtest: no server at http://127.0.0.1:{port}")


def test_an_adapter_that_the_server_lacks_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running_mock(MockServer(times=FAST)) as mock:
        code = main(["--url", mock.url, "--adapters", "gamma", "--out", str(tmp_path)])

    assert code == 2
    assert "adapter 'gamma'; it has: alpha, beta" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--concurrency", "0"], "--concurrency 0 is not between"),
        (["--concurrency", "1,x"], "is not a list such as"),
        (["--concurrency", "2,2"], "names a level twice"),
        (["--duration", "0"], "--duration 0.0 is not between"),
        (["--warmup", "-1"], "--warmup -1.0 is not between"),
        (["--base-share", "2"], "base share is 2.0"),
        (["--max-tokens", "9:3"], "'9:3' is not a length"),
        (["--slo", "fast"], "'fast' is not an objective"),
        (["--sweep", "1..4"], "'1..4' is not a sweep"),
        (["--sweep", "rate:1..2:log2", "--concurrency", "1"], "leave out --sweep"),
        (["--find-max", "ttft_p95<1s", "--sweep", "rate:1..2:log2"], "leave out --sweep"),
        (["--find-max", "ttft_p95<1s", "--slo", "ttft_p95<1s"], "leave out --slo"),
        (["--gate", "tpot_p95:+5%"], "--gate needs a --baseline"),
        (["--baseline", "nowhere.json"], "nowhere.json: No such file"),
        (["--metrics-compat", "wrk"], "--metrics-compat 'wrk' is not one of vllm"),
        (["--url", "nowhere"], "'nowhere' does not start with http"),
        (["--scenario", "rush"], "--scenario rush is not one of closed_loop"),
        (["--arrival", "weekly"], "arrival 'weekly' is not constant"),
        (["--arrival", "poisson:2", "--concurrency", "4"], "--arrival is an open loop"),
        (["--arrival", "poisson:2", "--sweep", "concurrency:1..4:log2"], "leave out one"),
        (["--adapters", "a=3,b=1", "--adapter-mix", "uniform"], "leave them out of --adapters"),
        (["--arrival", "trace:/nowhere"], "--arrival trace:/nowhere: No such file"),
        (["--canaries", "2"], "--canaries 2 is not from 0"),
        (["--patience", "x"], "--patience 'x' is not a number"),
        (["--seed", "x"], "--seed 'x' is not a whole number"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    ],
)
def test_a_wrong_value_is_named(
    arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--out", str(tmp_path / "out")])

    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


def test_the_command_line_module_does_not_patch_the_process() -> None:
    """`import locust` replaces sockets and threads; that may happen only when a sweep begins."""
    program = "import lorry_loadtest.cli, sys; sys.exit('locust' in sys.modules)"

    done = run_python("-c", program, cwd=ROOT)

    assert done.returncode == 0, done.stderr
