"""Where a call's time went: spans, text, HTML and trace events."""

from __future__ import annotations

import json
import pickle
from array import array
from itertools import pairwise
from typing import Any

import pytest

import lorry
from lorry.notebook import timing_html
from lorry.timing import AttemptTiming, Timing
from lorry.types.common import Timings
from lorry.waterfall import draw, spans

MS = 1_000_000

SERVER = Timings(
    request_id="r",
    adapter=None,
    queue_ms=20.0,
    prefill_ms=30.0,
    decode_ms=40.0,
    cached_tokens=5,
    steps=4,
    max_batch=1,
    preemptions=0,
    adapter_load_ms=8.0,
)


def streamed(**changes: Any) -> Timing:
    """Sent at 10 ms, connected at 12, first token at 72, last at 120, done at 121."""
    fields: dict[str, Any] = {
        "created_ns": 0,
        "intended_ns": 0,
        "attempts": (AttemptTiming(10 * MS, 12 * MS, 20 * MS, reused_connection=False),),
        "first_byte_ns": 70 * MS,
        "first_token_ns": 72 * MS,
        "last_token_ns": 120 * MS,
        "done_ns": 121 * MS,
        "num_tokens": 4,
        "num_events": 4,
        "server": SERVER,
        **changes,
    }
    return Timing(**fields)


def milliseconds(timing: Timing) -> list[tuple[str, float]]:
    return [(span.name, span.duration_ns / MS) for span in spans(timing)]


def test_the_servers_account_is_laid_into_the_clients_clock() -> None:
    assert milliseconds(streamed()) == [
        ("client queue", 10),
        ("connect", 2),
        ("network", 10),
        ("adapter load", 8),
        ("server queue", 12),
        ("prefill", 30),
        ("decode", 40),
        ("client lag", 9),
    ]


def test_spans_leave_no_gap_and_end_with_the_call() -> None:
    for timing in (streamed(), streamed(server=None), streamed(first_token_ns=None)):
        parts = spans(timing)

        assert parts[0].start_ns == 0
        assert parts[-1].end_ns == 121 * MS
        assert all(a.end_ns == b.start_ns for a, b in pairwise(parts))


def test_without_a_servers_account_its_part_is_one_with_the_network() -> None:
    assert milliseconds(streamed(server=None)) == [
        ("client queue", 10),
        ("connect", 2),
        ("network and server", 60),
        ("decode", 48),
        ("client lag", 1),
    ]


def test_an_answer_that_was_not_streamed_ends_with_its_first_byte() -> None:
    whole = streamed(first_token_ns=None, last_token_ns=None, first_byte_ns=115 * MS)

    assert milliseconds(whole) == [
        ("client queue", 10),
        ("connect", 2),
        ("network", 13),
        ("adapter load", 8),
        ("server queue", 12),
        ("prefill", 30),
        ("decode", 40),
        ("client lag", 6),
    ]


def test_a_servers_account_that_does_not_fit_is_scaled_and_never_drawn_before_the_request() -> None:
    parts = spans(streamed(first_token_ns=32 * MS, last_token_ns=40 * MS, done_ns=45 * MS))

    assert [span.start_ns for span in parts if span.name == "network"] == [12 * MS]
    assert all(span.duration_ns >= 0 for span in parts)
    assert parts[-1].end_ns == 45 * MS


def test_a_late_start_and_earlier_attempts_are_shown() -> None:
    first = AttemptTiming(1 * MS, 2 * MS)
    last = streamed().attempts[0]
    names = [
        name for name, _ in milliseconds(streamed(intended_ns=-5 * MS, attempts=(first, last)))
    ]

    assert names[:4] == ["late start", "client queue", "earlier attempts", "connect"]


def test_a_connection_that_was_not_made_took_all_the_time() -> None:
    timing = Timing(0, 0, attempts=(AttemptTiming(3 * MS),), done_ns=9 * MS)

    assert milliseconds(timing) == [("client queue", 3), ("connect", 6)]


def test_printing_draws_a_line_per_span_and_what_to_know() -> None:
    lines = str(streamed()).splitlines()

    assert lines[0] == "121.0 ms in all, first token 62.0 ms after sending"
    assert [line.split("  ")[0].strip() for line in lines[1:-1]] == [
        name for name, _ in milliseconds(streamed())
    ]
    assert "10.0 ms  ███" in lines[1]
    bars = [line[30:] for line in lines[1:-1]]
    assert all(len(bar) <= 40 and bar.strip() for bar in bars)
    assert lines[-1] == (
        "4 tokens, 16.0 ms each after the first; new connection; 5 prompt tokens from the cache"
    )


def test_what_makes_stamps_doubtful_is_said() -> None:
    timing = streamed(token_ns=array("q", [72 * MS] * 8), loop_lag_max=0.08)

    assert "2.0 tokens per event, so single gaps say little" in draw(timing)
    assert "the event loop was 80.0 ms late at worst" in draw(timing)


def test_a_call_that_has_not_begun_can_be_drawn() -> None:
    assert str(Timing(0, 0)) == "nothing has been sent yet"
    assert "nothing has been sent" in timing_html(Timing(0, 0))


def test_a_timing_with_a_servers_account_pickles() -> None:
    assert pickle.loads(pickle.dumps(streamed())) == streamed()


def test_html_has_a_bar_per_span_within_the_whole() -> None:
    shown = timing_html(streamed())

    assert shown.count("currentColor") == 8
    assert "margin-left:0.00%" in shown
    assert "client lag" in shown


def generation(timing: Timing, request_id: str) -> lorry.Generation:
    return lorry.Generation(
        text="private",
        finish_reason="stop",
        usage=lorry.Usage(1, 4),
        timing=timing,
        request_id=request_id,
        endpoint="http://x",
        adapter="pirate",
    )


def test_a_trace_holds_calls_on_lanes_and_no_text() -> None:
    failure = lorry.BadRequest("no")
    failure.timing = streamed()
    later = streamed(
        created_ns=200 * MS,
        intended_ns=200 * MS,
        attempts=(AttemptTiming(201 * MS, 202 * MS),),
        first_token_ns=None,
        last_token_ns=None,
        first_byte_ns=203 * MS,
        done_ns=204 * MS,
    )
    trace = lorry.chrome_trace([generation(streamed(), "a"), failure, generation(later, "b")])

    assert json.loads(json.dumps(trace)) == trace
    assert "private" not in json.dumps(trace)
    calls = [event for event in trace["traceEvents"] if event.get("cat") == "call"]
    assert [(call["tid"], call["ts"], call["dur"]) for call in calls] == [
        (1, 0.0, 121_000.0),
        (2, 0.0, 121_000.0),
        (1, 200_000.0, 4_000.0),
    ]
    assert calls[0]["args"] == {
        "num_tokens": 4,
        "attempts": 1,
        "request_id": "a",
        "endpoint": "http://x",
        "adapter": "pirate",
        "finish_reason": "stop",
    }


def test_every_trace_event_has_what_its_phase_requires() -> None:
    events = streamed().to_chrome_trace()["traceEvents"]
    required = {"X": {"ts", "dur"}, "i": {"ts", "s"}, "M": {"args"}}

    for event in events:
        assert {"name", "ph", "pid", "tid"} | required[event["ph"]] <= set(event)
        assert event.get("dur", 0) >= 0
    names = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {"client", "server"}
    prefill = next(event for event in events if event["name"] == "prefill")
    assert prefill["pid"] == 2


def test_nothing_to_trace_is_said() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        lorry.chrome_trace([Timing(0, 0)])
