"""Studies against a server: what is sent, what is counted, files, tables and pictures."""

from __future__ import annotations

import asyncio
import json
import pickle
import re
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import lorry
from lorry.sweep.plot import latency_against_throughput
from tests.support.fake_llm_server import (
    FakeLLMServer,
    ReceivedRequest,
    Reply,
    completion,
    usage_chunk,
)

# what the machine takes for others is no latency of the server's
pytestmark = pytest.mark.usefixtures("stamps_by_the_loop")


class Model:
    """Streams as many tokens as are asked for, one every `gap_s`."""

    def __init__(self, *, gap_s: float = 0.002, failing: str | None = None) -> None:
        self.gap_s = gap_s
        self.failing = failing
        self.num_open = 0
        self.most_open = 0
        self.asked: list[dict[str, Any]] = []

    async def __call__(self, request: ReceivedRequest, reply: Reply) -> None:
        if request.path == "/info":
            await reply.json(200, {"model_id": "tiny", "max_total_tokens": 512})
            return
        body = request.json
        self.asked.append(body)
        if body["model"] == self.failing and self.failing is not None:
            await reply.json(
                404, {"error": {"message": "no such adapter", "code": "model_not_found"}}
            )
            return
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        try:
            await reply.start_stream()
            for number in range(body["max_tokens"]):
                await asyncio.sleep(self.gap_s)
                is_last = number == body["max_tokens"] - 1
                finish = {"finish_reason": "length"} if is_last else {}
                await reply.events(completion("x", token_ids=[number], **finish))
            await reply.events(usage_chunk(10, body["max_tokens"]), "[DONE]")
            await reply.end_stream()
        finally:
            self.num_open -= 1


async def study(model: Model | None = None, **given: Any) -> lorry.SweepResult:
    arguments: dict[str, Any] = {
        "concurrency": [1, 3],
        "max_tokens": [4],
        "requests_per_point": 24,
    }
    async with (
        FakeLLMServer(model or Model()) as server,
        lorry.AsyncClient(server.url) as client,
    ):
        return await lorry.sweep(client, **(arguments | given))


async def test_each_point_measures_what_it_was_told_to() -> None:
    model = Model()
    result = await study(model, ignore_eos=True)

    one, three = result.points
    assert (one.setting.concurrency, three.setting.concurrency) == (1, 3)
    assert (one.num_measured, one.num_warmup, one.num_failed) == (24, 1, 0)
    assert (three.num_measured, three.num_warmup, three.max_in_flight) == (24, 3, 3)
    assert all(body["max_tokens"] == 4 and body["ignore_eos"] for body in model.asked)
    assert one.ttft_from_intended.p50 is not None
    assert three.output_tokens_per_s is not None
    assert three.ttft.p50 is not None
    assert three.ttft.p95 is None  # two hundred would be needed
    assert [record.index for record in three.measured] == list(range(3, 27))
    assert {record.completion_tokens for record in three.measured} == {4}


async def test_the_load_is_kept_up_until_the_last_measured_request_has_ended() -> None:
    model = Model()
    result = await study(model, concurrency=[4], max_tokens=[[2, 40]], requests_per_point=20)

    (point,) = result.points
    assert [record.max_tokens for record in point.measured[:2]] == [2, 40]
    assert point.num_drain > 0
    assert point.num_warmup + point.num_measured + point.num_drain == len(model.asked)
    assert (
        sum(record.phase == "drain" for record in point.records) == point.num_drain - point.num_cut
    )
    last_end_s = max(r.start_s + (r.e2e_s or 0) for r in point.measured)
    drained = [record for record in point.records if record.phase == "drain"]
    assert all(record.start_s <= last_end_s for record in drained)


async def test_throughput_is_of_the_tokens_that_came_in_the_window() -> None:
    result = await study(concurrency=[3], max_tokens=[10], requests_per_point=30)

    (point,) = result.points
    assert point.output_tokens_per_s is not None
    assert point.requests_per_s == pytest.approx(30 / point.window_s)
    # of a closed loop in a steady state each request that starts brings ten tokens
    assert point.output_tokens_per_s.value == pytest.approx(10 * point.requests_per_s, rel=0.15)


async def test_a_point_can_last_for_a_time_instead() -> None:
    result = await study(concurrency=[2], requests_per_point=None, duration_s=0.3)

    (point,) = result.points
    assert point.window_s == pytest.approx(0.3)
    assert point.num_measured > 5
    first_s = point.measured[0].start_s
    assert all(record.start_s - first_s <= 0.3 for record in point.measured)


async def test_adapters_and_lengths_of_a_mix_take_turns() -> None:
    model = Model()
    await study(
        model, concurrency=[2], adapters=[["a", None]], max_tokens=[[1, 2]], requests_per_point=24
    )

    asked = Counter((body["model"], body["max_tokens"]) for body in model.asked[:24])
    assert asked == {("a", 1): 6, ("", 1): 6, ("a", 2): 6, ("", 2): 6}


async def test_the_base_model_is_studied_whatever_the_client_does_by_default() -> None:
    model = Model()
    async with FakeLLMServer(model) as server, lorry.AsyncClient(server.url) as client:
        view = client.with_options(adapter="pirate", temperature=0.5)
        result = await lorry.sweep(view, concurrency=[1], max_tokens=[1], requests_per_point=2)

    assert {body["model"] for body in model.asked} == {""}
    assert result.setting.options == {"temperature": 0.5}


async def test_an_open_loop_is_studied_by_its_rate() -> None:
    rates = [lorry.Constant(100), lorry.Poisson(200, seed=1)]
    result = await study(concurrency=None, arrivals=rates, requests_per_point=40)

    even, _ = result.points
    assert even.requests_per_s == pytest.approx(100, rel=0.05)
    assert even.setting.load == "Constant(requests_per_s=100)"
    assert all(record.lateness_s is not None for record in even.measured)
    assert "/s</text>" in result._repr_svg_()


async def test_failures_are_counted_and_put_the_figures_in_doubt() -> None:
    result = await study(
        Model(failing="gone"), concurrency=[2], adapters=[[None, "gone"]], requests_per_point=20
    )

    (point,) = result.points
    assert point.num_failed == 10
    assert not result.is_trustworthy
    assert "10 of 20 requests failed (10 AdapterNotFound; the first: no such" in point.cautions[0]
    assert {r.error for r in point.records if r.adapter == "gone"} == {"AdapterNotFound"}


async def test_a_study_of_which_nothing_can_succeed_ends_with_the_failure() -> None:
    with pytest.raises(lorry.AdapterNotFound, match="no such adapter"):
        await study(Model(failing="gone"), adapters=["gone"])


async def test_a_server_without_info_is_studied_all_the_same() -> None:
    model = Model()

    async def script(request: ReceivedRequest, reply: Reply) -> None:
        if request.path == "/info":
            await reply.json(404, {"error": {"message": "no such route"}})
        else:
            await model(request, reply)

    async with FakeLLMServer(script) as server, lorry.AsyncClient(server.url) as client:
        result = await lorry.sweep(client, concurrency=[1], max_tokens=2, requests_per_point=2)

    assert result.points[0].environment["servers"] == {server.url: None}


async def test_an_interrupted_study_goes_on_from_its_file(tmp_path: Path) -> None:
    path, told = tmp_path / "study.jsonl", []
    first = await study(journal=path, on_point=told.append)
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])  # the last point is torn
    model = Model()
    second = await study(model, journal=path)
    again = Model()
    third = await study(again, journal=path, concurrency=[1, 3, 2])

    assert told == list(first.points)
    assert second.points[0] == first.points[0]
    assert second.points[1] != first.points[1]
    assert len(model.asked) >= 27
    assert third.points[:2] == second.points
    assert third.points[2].setting.concurrency == 2
    assert again.most_open == 2
    assert lorry.SweepResult.read(path).points[:2] == second.points
    environment = first.points[0].environment
    assert list(environment["servers"].values()) == [{"model_id": "tiny", "max_total_tokens": 512}]
    assert environment["client"]["lorry"] == lorry.__version__
    assert environment["client"]["packages"]["aiohttp"]


async def test_points_of_another_study_are_not_mixed_in(tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl"
    await study(journal=path, concurrency=[1], requests_per_point=2)

    with pytest.raises(lorry.ConfigError, match="requests_per_point 2, this one has 3"):
        await study(journal=path, concurrency=[1], requests_per_point=3)
    with pytest.raises(lorry.ConfigError, match="study with options"):
        await study(journal=path, concurrency=[1], requests_per_point=2, temperature=0.5)
    (tmp_path / "notes").write_text("shopping\n")
    with pytest.raises(lorry.ConfigError, match=r"notes is not a file of lorry\.sweep"):
        await study(journal=tmp_path / "notes")


async def test_a_result_survives_its_file_and_pickle(tmp_path: Path) -> None:
    result = await study(adapters=[None, ["a", None]])
    result.to_jsonl(tmp_path / "out.jsonl")

    assert lorry.SweepResult.read(tmp_path / "out.jsonl") == result
    assert pickle.loads(pickle.dumps(result)) == result


async def test_records_are_flat_and_json_can_hold_them() -> None:
    result = await study()

    points, requests = result.to_records(), result.to_records("request")
    assert [row["concurrency"] for row in points] == [1, 3]
    assert len({frozenset(row) for row in points}) == 1
    assert points[0]["ttft_p50_s_low"] <= points[0]["ttft_p50_s"] <= points[0]["ttft_p50_s_high"]
    assert len(requests) == sum(len(point.records) for point in result.points)
    json.dumps([points, requests])
    with pytest.raises(ValueError, match="per is 'token'"):
        result.to_records("token")  # type: ignore[arg-type]  # the point of the test


async def test_pandas_is_asked_for_only_when_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    result = await study(concurrency=[1], requests_per_point=2)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match="pip install pandas"):
        result.to_pandas()

    class DataFrame:
        @staticmethod
        def from_records(rows: list[dict[str, Any]]) -> tuple[str, int]:
            return "frame", len(rows)

    fake = ModuleType("pandas")
    fake.DataFrame = DataFrame  # type: ignore[attr-defined]  # a library that need not be there
    monkeypatch.setitem(sys.modules, "pandas", fake)
    assert result.to_pandas() == ("frame", 1)
    assert result.to_pandas(per="request")[1] == len(result.points[0].records)


async def test_the_table_has_a_row_for_each_point_and_says_what_is_doubtful() -> None:
    result = await study(requests_per_point=5)

    lines = str(result).splitlines()
    assert lines[0].split()[:4] == ["adapters,", "max_tokens", "load", "n"]
    assert [line.split()[0] for line in lines[2:4]] == ["base", "base"]
    assert sum("too few requests for a median: 5 of the 20" in line for line in lines) == 2
    assert repr(result) == str(result)
    num_drain = sum(point.num_drain for point in result.points)
    assert f"left out: 4 requests of warm-up, {num_drain} that kept the load up" in lines[4]
    html = result._repr_html_()
    assert html.startswith("<svg")
    assert html.count("<tr>") == 3


async def test_the_picture_has_a_curve_for_each_adapters_and_length(tmp_path: Path) -> None:
    result = await study(adapters=[None, "a<b"], max_tokens=[2, 4], requests_per_point=20)
    result.plot(tmp_path / "study.svg")

    svg = ET.fromstring((tmp_path / "study.svg").read_text(encoding="utf-8"))
    curves = [e for e in svg.iter() if "curve" in e.get("class", "") and e.tag.endswith("polyline")]
    marks = [e for e in svg.iter() if e.tag.endswith("circle")]
    texts = [e.text for e in svg.iter() if e.tag.endswith("text")]
    assert len(curves) == 2 * 4 + 4  # two charts, and the legend
    assert len({curve.get("class") for curve in curves}) == 4
    assert len(marks) == 2 * 8 + 4
    assert {"time to first token, median, ms", "time per output token, median, ms"} <= set(texts)
    assert texts.count("output tokens/s") == 2
    assert "a<b, 4 tokens" in texts
    with pytest.raises(ValueError, match=r"the picture is an '\.svg'"):
        result.plot(tmp_path / "study.png")


def test_a_picture_of_nothing_says_so() -> None:
    assert latency_against_throughput([]).count("no finished request") == 2


async def test_two_studies_compare_in_one_line() -> None:
    fast = await study(requests_per_point=40)
    slow = await study(Model(gap_s=0.01), requests_per_point=40)

    comparison = lorry.compare(fast, slow)
    assert comparison.num_points == 2
    assert comparison.output_tokens_per_s is not None
    assert comparison.output_tokens_per_s.high is not None
    assert comparison.output_tokens_per_s.high < 1
    assert comparison.ttft_p50 is not None
    assert comparison.ttft_p50.low is not None
    assert comparison.ttft_p50.low > 1
    assert re.fullmatch(
        r"second / first over 2 points: output tokens/s [\d.]+ times \(95 % interval [\d.]+ to "
        r"[\d.]+\), median time to first token [\d.]+ times \(95 % interval [\d.]+ to [\d.]+\)",
        str(comparison),
    )
    point = lorry.compare(fast.points[0], slow.points[0])
    assert point.num_points == 1
    other = await study(concurrency=[2], requests_per_point=2)
    with pytest.raises(ValueError, match="no setting in common"):
        lorry.compare(fast, other)
    with pytest.raises(TypeError, match="two results of a sweep or two points"):
        lorry.compare(fast, fast.points[0])


async def test_options_that_the_sweep_sets_are_refused() -> None:
    for name in ("adapter", "tag", "token_times", "request_id"):
        with pytest.raises(TypeError, match=f"{name} is set by the sweep itself"):
            await study(**{name: "x"})
    with pytest.raises(TypeError, match="'temprature'; did you mean 'temperature'"):
        await study(temprature=1)
