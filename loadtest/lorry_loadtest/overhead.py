"""What the SDK adds to a request: the same requests through both clients, paired.

Both are sent to a mock server, whose token times are absolute, so that what differs between the two
records of one request is the client's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from lorry_loadtest import metrics
from lorry_loadtest.attempt import attempt
from lorry_loadtest.attempted import Tries
from lorry_loadtest.calibration import (
    FIRST_MS,
    GAP_MS,
    NUM_TOKENS,
    mock_process,
    send_schedule,
    shape_of,
)
from lorry_loadtest.endpoint import parse_endpoint
from lorry_loadtest.engine import Engine
from lorry_loadtest.records import RequestRecord
from lorry_loadtest.sdk_attempt import sdk_attempt


def measure_overhead(engines: Sequence[Engine], *, num_streams: int) -> dict[str, float]:
    """Medians of the paired differences in milliseconds (TTFT and E2E from sending), and the
    difference in CPU microseconds per token-bearing event."""
    times_ns = shape_of(engines[0], num_streams)
    with mock_process("--first-ms", str(FIRST_MS), "--gap-ms", str(GAP_MS)) as url:
        endpoint = parse_endpoint(url)

        def measured(tries: Tries) -> tuple[dict[int, RequestRecord], float]:
            send_schedule(endpoint, times_ns[:1], num_tokens=2, tries=tries)  # imports, first pool
            cpu_s = time.process_time()
            records, _ = send_schedule(endpoint, times_ns, num_tokens=NUM_TOKENS, tries=tries)
            cpu_us = (time.process_time() - cpu_s) * 1e6
            num_events = sum(len(record.event_tokens) for record in records)
            return {record.index: record for record in records}, cpu_us / max(1, num_events)

        native, native_cpu_us = measured(attempt)
        sdk, sdk_cpu_us = measured(sdk_attempt)
    return paired_difference(native, sdk) | {"cpu_us_per_event": sdk_cpu_us - native_cpu_us}


def paired_difference(
    native: dict[int, RequestRecord], sdk: dict[int, RequestRecord]
) -> dict[str, float]:
    """By the index of the request; those that only one client finished are left out."""
    ttft: list[float] = []
    e2e: list[float] = []
    for index in native.keys() & sdk.keys():
        first = [metrics.ttft_service_ms(records[index]) for records in (native, sdk)]
        if first[0] is None or first[1] is None:
            continue
        ttft.append(first[1] - first[0])
        e2e.append(_service_e2e_ms(sdk[index]) - _service_e2e_ms(native[index]))
    return {
        "num_pairs": float(len(ttft)),
        "ttft_ms": statistics.median(ttft) if ttft else 0.0,
        "e2e_ms": statistics.median(e2e) if e2e else 0.0,
    }


def overhead_line(overhead: dict[str, float]) -> str:
    """One line for the terminal."""
    return (
        f"SDK overhead, median of {overhead['num_pairs']:.0f} pairs: TTFT "
        f"{overhead['ttft_ms']:+.3f} ms, E2E {overhead['e2e_ms']:+.3f} ms, "
        f"{overhead['cpu_us_per_event']:+.0f} us of CPU per event"
    )


def _service_e2e_ms(record: RequestRecord) -> float:
    assert record.t_send_ns is not None
    return (record.event_ns[-1] - record.t_send_ns) / metrics.NS_PER_MS
