from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from lorry_loadtest.gate.gate import judge_gate
from lorry_loadtest.gate.limit import parse_gate
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.machine import Machine
from lorry_loadtest.observations import Observations
from lorry_loadtest.records import read_records
from lorry_loadtest.report.axes import log_ticks, nice_ticks
from lorry_loadtest.report.page import render_page
from lorry_loadtest.report.timeline_chart import timeline_chart
from lorry_loadtest.result import read_result
from lorry_loadtest.run_facts import RunFacts
from lorry_loadtest.run_info import RunInfo
from lorry_loadtest.server_facts import ServerFacts
from lorry_loadtest.slo import Objective, parse_objectives
from lorry_loadtest.write_report import make_result, write_report
from tests.support.loadtest_records import make_record, make_run
from tests.support.simulated_pairs import simulated_pair
from tests.support.simulated_server import Load, ServerModel, simulate_levels

INFO = RunInfo(
    url="http://127.0.0.1:8000",
    base_model="base<model>",
    adapters={"sql": 0.5, "<script>": 0.25, "base<model>": 0.25},
    route="completions",
    prompt_words="64",
    max_tokens="16:96",
    ignore_eos=False,
    seed=7,
    warmup_s=1.0,
    duration_s=1.0,
    command="lorry loadtest --url http://127.0.0.1:8000",
    started_at="2026-01-02T03:04:05+00:00",
    version="0",
    commit="1a2b3c4d5e6f+",
    server=ServerFacts(version="3.1", dtype="float32", device="cpu", quantization="int8"),
    machine=Machine(
        system="Linux", cpu="CPU", num_cpus=2, python="3", locust="2", gevent="2", load_average=0.5
    ),
)


class BalanceChecker(HTMLParser):
    """Fails when tags are not closed in the order they were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def mixed_run(concurrency: int) -> LevelRun:
    adapters = ("sql", "<script>", None)
    records = [
        make_record(
            sched_ms=40.0 * number,
            events_ms=tuple(40.0 * number + 20.0 + 5.0 * j for j in range(6)),
            adapter=adapters[number % 3],
            user=number % concurrency,
            outcome="truncated" if number == 11 else "ok",
        )
        for number in range(30)
    ]
    return make_run(*records, concurrency=concurrency, window_ms=(100, 1000))


def render(folder: Path, *runs: LevelRun) -> str:
    objectives = [Objective("ttft", "p50", 30.0)]
    result = make_result(runs, info=INFO, objectives=objectives)
    write_report(folder, result, runs)
    return (folder / "report.html").read_text()


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    page = render(tmp_path, mixed_run(1), mixed_run(4))

    urls = set(re.findall(r"https?://[^\s<\"']+", page))
    assert urls == {"http://127.0.0.1:8000"}
    assert not re.findall(r"(?:src|href|@import|url\()", page)


def test_the_page_is_well_formed_and_has_its_pictures(tmp_path: Path) -> None:
    page = render(tmp_path, mixed_run(1), mixed_run(4))
    checker = BalanceChecker()

    checker.feed(page)

    assert checker.open == []
    assert {"svg", "table", "dl"} <= checker.seen
    for title in ("Latency against throughput", "streams in time", "Objectives", "truncated"):
        assert title in page, title


def test_names_from_the_server_are_escaped(tmp_path: Path) -> None:
    page = render(tmp_path, mixed_run(4))

    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_run_in_which_nothing_finished_has_a_page(tmp_path: Path) -> None:
    page = render(tmp_path, make_run(make_record(outcome="http_5xx", end_ms=5)))

    assert "No request finished" in page
    assert "http_5xx" in page


def test_a_run_without_any_attempt_has_a_page(tmp_path: Path) -> None:
    assert "No request finished" in render(tmp_path, make_run())


def test_what_is_written_can_be_read_back(tmp_path: Path) -> None:
    run = mixed_run(2)

    result = make_result([run], info=INFO)
    write_report(tmp_path, result, [run])

    assert read_result(tmp_path / "report.json") == result
    assert tuple(read_records(tmp_path / "records.jsonl")) == run.records
    assert result.schema_version == 2


def swept_runs() -> list[LevelRun]:
    """Loads up and down on a simulated server, with everything that a page can show."""
    loads = [Load(concurrency=c, duration_s=10.0, warmup_s=1.0) for c in (1, 4, 16, 4, 1)]
    runs = simulate_levels(loads, ServerModel())
    return [replace(run, descending=place > 2) for place, run in enumerate(runs)]


def full_page(folder: Path) -> str:
    runs = swept_runs()
    gate = judge_gate(*simulated_pair(1, num_requests=300), parse_gate("tpot_mean:+5%"))
    result = make_result(
        runs, info=INFO, objectives=parse_objectives("ttft_p50<60ms,tpot_p50<12ms"), compat="vllm"
    )
    write_report(folder, msgspec.structs.replace(result, gate=gate), runs)
    return (folder / "report.html").read_text()


def test_the_page_has_every_part_of_the_design(tmp_path: Path) -> None:
    page = full_page(tmp_path)
    checker = BalanceChecker()

    checker.feed(page)

    assert checker.open == []
    titles = re.findall(r"<h2>([^<]+)</h2>", page)
    assert titles == [
        "Against the baseline",
        "Objectives",
        "Latency against throughput",
        "Goodput against offered load",
        "What more streams give",
        "Every level",
        "How latency is spread at 16 streams",
        "Adapters at 16 streams",
        "The server in time",
        "16 streams in time",
        "Where the time goes",
        "The 20 slowest requests",
        "Every attempt, every token",
        "By the formulas of vllm",
        "Read this with care",
        "Can it be believed",
        "What the words mean",
        "How to repeat it",
    ]
    assert page.index("<h1>") < page.index('class="verdict') < page.index('class="tiles"')
    for sign in ("int8, float32, cpu", "0 (1a2b3c4d5e6f+)", "token-ticks"):
        assert sign in page, sign
    for sign in ("knee", 'class="slo"', "p50 error", "omission", "warm-up", "heat0", "KV cache"):
        assert sign in page, sign


def test_a_stall_is_in_the_log_with_the_step_that_made_it(tmp_path: Path) -> None:
    step = {"index": 5, "t_ns": 500_000_000, "step_ms": 380.0, "prefill_tokens": 4096, "batch": 2}
    facts = RunFacts(observations=Observations(steps=(step,)))
    run = make_run(make_record(events_ms=(100.0, 110.0, 500.0, 510.0), adapter="sql"), facts=facts)
    page = render(tmp_path, run)

    assert "<h2>Stalls</h2>" in page
    assert "step 5 took 380 ms: 4,096 prompt tokens" in page


def test_the_lanes_are_of_the_run_and_each_workers_own(tmp_path: Path) -> None:
    """What canaries learned before the run lies left of the picture's edge."""
    learned = msgspec.structs.replace(
        make_record(sched_ms=-5_000.0, events_ms=(-4_900.0, -4_800.0), adapter="sql"), phase="learn"
    )
    users = [
        msgspec.structs.replace(
            make_record(sched_ms=10.0, events_ms=(20.0, 900.0), adapter="sql"), worker=worker
        )
        for worker in range(2)
    ]
    chart = timeline_chart(make_run(learned, *users, concurrency=2), colors={"sql": "a0"})
    bars = re.findall(r'<rect class="a0" x="([-\d.]+)" y="([-\d.]+)"', chart)

    assert len({y for _, y in bars}) == len(bars) == 2
    assert all(float(x) >= 50.0 for x, _ in bars)


def test_an_open_loop_has_a_page(tmp_path: Path) -> None:
    loads = [Load(rate_per_s=rate, duration_s=15.0) for rate in (2.0, 8.0)]
    runs = simulate_levels(loads, ServerModel())
    result = make_result(runs, info=INFO, objectives=parse_objectives("ttft_p50<60ms"))

    write_report(tmp_path, result, runs)

    page = (tmp_path / "report.html").read_text()
    assert "arrivals per second" in page
    assert "8 req/s" in page
    assert "closed loops" not in page


def test_a_hundred_thousand_requests_fit_in_half_a_megabyte() -> None:
    adapters = [f"adapter-{number}" for number in range(60)]
    base = [
        make_record(
            index=number,
            sched_ms=0.9 * number,
            events_ms=tuple(0.9 * number + 15.0 + number % 17 + 9.0 * j for j in range(3)),
            user=number % 64,
            adapter=adapters[number % 60],
        )
        for number in range(100_000)
    ]
    run = make_run(*base, concurrency=64, window_ms=(1_000, 89_000))

    page = render_page(make_result([run], info=INFO), [run])

    assert len(page.encode()) <= 500_000


@pytest.mark.skipif(shutil.which("chromium") is None, reason="the structure is tested without it")
def test_a_browser_shows_the_page_without_cutting_anything_off(tmp_path: Path) -> None:
    """In a laptop's width, light and dark: nothing is wider than the page, no text in a picture
    leaves it, and the network is not asked for anything."""
    page = full_page(tmp_path)
    probe = (
        "<script>addEventListener('load',()=>{const wide=document.documentElement.scrollWidth"
        ">innerWidth;let out=0;for(const t of document.querySelectorAll('svg text')){const s="
        "t.ownerSVGElement.getBoundingClientRect(),b=t.getBoundingClientRect();if(b.left<s.left-8||"
        "b.right>s.right+8||b.top<s.top-8||b.bottom>s.bottom+8)out++}document.body.dataset.probe="
        "`wide=${wide} out=${out} asked=${performance.getEntriesByType('resource').length}`})</script>"
    )
    (tmp_path / "probed.html").write_text(page.replace("</body>", f"{probe}</body>"))
    for mode in ((), ("--force-dark-mode",)):
        done = subprocess.run(
            [
                *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", *mode),
                *("--window-size=1366,900", f"file://{tmp_path}/probed.html"),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert 'data-probe="wide=false out=0 asked=0"' in done.stdout, re.findall(
            r'data-probe="[^"]*"', done.stdout
        )


@pytest.mark.parametrize(
    ("high", "ticks"),
    [
        (0.0, [0.0, 1.0]),
        (9.0, [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]),
        (430.0, [0, 100, 200, 300, 400, 500]),
    ],
)
def test_ticks_are_round_and_cover_the_values(high: float, ticks: list[float]) -> None:
    assert nice_ticks(high, most=5) == pytest.approx(ticks)


def test_logarithmic_ticks_are_round_and_at_least_three_even_in_a_narrow_range() -> None:
    assert log_ticks(1.0, 1000.0) == [
        1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0
    ]  # fmt: skip
    assert len(log_ticks(18.0, 40.0)) >= 3
