from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.machine import Machine
from lorry_loadtest.records import read_records
from lorry_loadtest.report.axes import nice_ticks
from lorry_loadtest.result import read_result
from lorry_loadtest.run_info import RunInfo
from lorry_loadtest.slo import Objective
from lorry_loadtest.write_report import make_result, write_report
from tests.support.loadtest_records import make_record, make_run

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


def test_a_large_run_makes_a_page_of_bounded_size(tmp_path: Path) -> None:
    records = [
        make_record(sched_ms=number, events_ms=(number + 1.0, number + 2.0), user=number % 64)
        for number in range(6_000)
    ]

    page = render(tmp_path, make_run(*records, concurrency=64, window_ms=(0, 6_000)))

    assert len(page) < 1_500_000


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
