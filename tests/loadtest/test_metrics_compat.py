"""Other tools' formulas, and vLLM's against a file that `vllm bench serve` wrote."""

from __future__ import annotations

import json
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from lorry_loadtest.metrics_compat import CompatTable, Tool, compat_table
from lorry_loadtest.records import RequestRecord
from tests.support.loadtest_records import make_record

# vLLM 0.32 against the mock server: two tokens to a chunk, every eighth request refused with a 500,
# `--request-rate 40 --percentile-metrics ttft,tpot,itl,e2el --save-result --save-detailed`
VLLM_RESULT = Path(__file__).with_name("vllm_bench_result.json")


def figure(table: CompatTable, name: str) -> float:
    return next(figure.mean for figure in table.figures if figure.name == name)


@pytest.mark.parametrize(
    ("tool", "name", "value"),
    [
        ("vllm", "TPOT", 50.0),
        ("vllm", "ITL", 50.0),
        ("vllm", "TTFT", 1000.0),
        ("vllm", "E2EL", 1500.0),
        ("guidellm", "ITL", 50.0),
        ("guidellm", "TPOT", 1500 / 11),
        ("aiperf", "ITL", 50.0),
        ("aiperf", "ICL", 50.0),
    ],
)
def test_eleven_tokens_from_1000_to_1500_ms_are_what_each_tool_prints(
    tool: Tool, name: str, value: float
) -> None:
    record = make_record(events_ms=tuple(1000.0 + 50.0 * j for j in range(11)))

    assert figure(compat_table(tool, [record]), name) == pytest.approx(value)


def test_five_chunks_of_two_tokens_are_what_each_tool_prints() -> None:
    record = make_record(events_ms=(100, 200, 300, 400, 500), tokens=(2, 2, 2, 2, 2))

    assert figure(compat_table("vllm", [record]), "ITL") == pytest.approx(100.0)
    assert figure(compat_table("aiperf", [record]), "ICL") == pytest.approx(100.0)
    assert figure(compat_table("aiperf", [record]), "ITL") == pytest.approx(400 / 9)


def test_other_tools_start_their_clock_at_the_send_and_stamp_in_the_program() -> None:
    record = make_record(send_ms=40.0, events_ms=(100.0, 200.0), user_ms=(110.0, 210.0))

    assert figure(compat_table("vllm", [record]), "TTFT") == pytest.approx(70.0)


def test_an_answer_of_one_token_has_no_tpot_in_vllms_table() -> None:
    alone = make_record(events_ms=(100.0,))
    table = compat_table("vllm", [alone, make_record(events_ms=(100.0, 130.0))])

    assert figure(table, "TPOT") == pytest.approx(30.0)
    assert figure(compat_table("vllm", [alone]), "TPOT") == 0.0
    assert compat_table("vllm", [alone]).tokens_per_s == pytest.approx(10.0)
    assert compat_table("vllm", []).num_requests == 0


def records_of(result: dict[str, Any]) -> list[RequestRecord]:
    """The requests of a detailed result, on a clock that starts with the run.

    The file has no stamp of that start: it is where its own duration puts it.
    """
    answered = zip(result["start_times"], result["latencies"], strict=True)
    origin_s = max(start_s + latency_s for start_s, latency_s in answered) - result["duration"]
    records = []
    for index, start_s in enumerate(result["start_times"]):
        send_ms = (start_s - origin_s) * 1000
        first_s = start_s - origin_s + result["ttfts"][index]
        events_ms = tuple(
            at_s * 1000 for at_s in accumulate(result["itls"][index], initial=first_s)
        )
        failed = bool(result["errors"][index])
        records.append(
            make_record(
                index=index,
                sched_ms=send_ms,
                events_ms=() if failed else events_ms,
                completion_tokens=result["output_lens"][index],
                outcome="http_5xx" if failed else "ok",
            )
        )
    return records


def test_the_figures_are_those_that_vllm_wrote_of_the_same_requests() -> None:
    result = json.loads(VLLM_RESULT.read_text())
    table = compat_table("vllm", records_of(result))

    assert (table.num_requests, table.num_failed) == (result["completed"], result["failed"])
    assert table.duration_s == pytest.approx(result["duration"])
    assert table.requests_per_s == pytest.approx(result["request_throughput"])
    assert table.tokens_per_s == pytest.approx(result["output_throughput"])
    for figure in table.figures:
        key = f"{figure.name.lower()}_ms"
        ours = (figure.mean, figure.std, figure.p50, figure.p99)
        theirs = [result[f"{part}_{key}"] for part in ("mean", "std", "median", "p99")]
        assert ours == pytest.approx(theirs), key


def test_vllms_window_has_the_wait_for_the_first_request_and_for_the_last_failure() -> None:
    answered = make_record(sched_ms=1000.0, events_ms=(1500.0, 2000.0))
    refused = make_record(sched_ms=2500.0, end_ms=4000.0, outcome="http_5xx")
    records = [answered, refused]

    assert compat_table("vllm", records).duration_s == pytest.approx(4.0)
    assert compat_table("vllm", records, start_ns=10**9).tokens_per_s == pytest.approx(2 / 3)
    assert compat_table("guidellm", records).duration_s == pytest.approx(1.0)
