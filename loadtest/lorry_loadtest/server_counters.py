"""Reads the server's counters and gauges out of samples of `/metrics`."""

from __future__ import annotations

from collections.abc import Sequence

from lorry_loadtest.observations import ServerSample

OUTPUT_TOKENS = ("vllm:generation_tokens_total", "vllm:generation_tokens")
FINISHED_REQUESTS = ("vllm:request_success_total", "vllm:request_success")
RUNNING = ("vllm:num_requests_running",)
WAITING = ("vllm:num_requests_waiting",)


def total(sample: ServerSample, names: Sequence[str]) -> float | None:
    """The sum over all label sets of the first of `names` that the server has."""
    for name in names:
        found = [value for key, value in sample.values.items() if key.partition("{")[0] == name]
        if found:
            return sum(found)
    return None


def growth(
    samples: Sequence[ServerSample], names: Sequence[str], *, start_ns: int, end_ns: int
) -> float | None:
    """How much a counter grew from the last sample at or before `start_ns` to the first after.

    None when the samples do not enclose the span, or do not have the counter.
    """
    before = [sample for sample in samples if sample.t_ns <= start_ns]
    after = [sample for sample in samples if sample.t_ns >= end_ns]
    if not before or not after:
        return None
    first, last = total(before[-1], names), total(after[-1], names)
    return None if first is None or last is None else last - first
