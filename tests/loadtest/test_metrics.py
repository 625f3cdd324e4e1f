from __future__ import annotations

import pytest

from lorry_loadtest import metrics
from tests.support.loadtest_records import make_record


def test_eleven_tokens_from_1000_to_1500_ms_take_50_ms_each() -> None:
    """Where other tools print 45.5, 136.4 or 125 ms for this very request."""
    record = make_record(events_ms=tuple(1000.0 + 50.0 * j for j in range(11)))

    assert metrics.tpot_ms(record) == pytest.approx(50.0)
    assert metrics.ttft_ms(record) == pytest.approx(1000.0)
    assert metrics.e2e_ms(record) == pytest.approx(1500.0)


def test_tokens_of_the_first_event_do_not_count_as_later_tokens() -> None:
    record = make_record(events_ms=(100, 200, 300, 400, 500), tokens=(2, 2, 2, 2, 2))

    assert metrics.tpot_ms(record) == pytest.approx(400 / 8)
    assert metrics.chunk_gaps_ms(record) == pytest.approx([100.0] * 4)


def test_tpot_of_a_single_event_is_undefined_and_not_zero() -> None:
    record = make_record(events_ms=(100,), tokens=(8,))

    assert metrics.tpot_ms(record) is None


def test_the_servers_token_count_is_the_divisor() -> None:
    record = make_record(events_ms=(100, 200, 300), completion_tokens=6)

    assert metrics.tpot_ms(record) == pytest.approx(200 / 5)
    assert metrics.tokens_disagree(record)


def test_latency_starts_when_the_user_was_ready_not_when_the_request_left() -> None:
    record = make_record(sched_ms=10, send_ms=40, events_ms=(90,))

    assert metrics.ttft_ms(record) == pytest.approx(80.0)
    assert metrics.ttft_service_ms(record) == pytest.approx(50.0)
    assert metrics.lag_ms(record) == pytest.approx(30.0)


def test_a_request_without_tokens_has_no_latencies() -> None:
    record = make_record(outcome="http_429", end_ms=20)

    assert metrics.ttft_ms(record) is None
    assert metrics.e2e_ms(record) is None
    assert metrics.duration_ms(record) == pytest.approx(20.0)


def test_tokens_are_counted_where_their_event_arrived() -> None:
    record = make_record(events_ms=(100, 200, 300), tokens=(1, 2, 4))

    assert metrics.num_tokens_between(record, 200_000_000, 300_000_000) == 2
