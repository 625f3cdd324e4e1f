"""All thirty checks, in the order of docs/loadtest-validity.md."""

from __future__ import annotations

from lorry_loadtest.validity import (
    adapter_checks,
    arrival_checks,
    client_checks,
    outcome_checks,
    stream_checks,
    token_checks,
    window_checks,
)
from lorry_loadtest.validity.finding import Check

CHECKS: tuple[Check, ...] = (
    Check(
        1, "client saturation", "a slow client looks like a slow server", client_checks.saturation
    ),
    Check(2, "read coalescing", "bursts of gaps of zero", client_checks.read_coalescing),
    Check(3, "chunk batching", "a chunk is taken for a token", stream_checks.chunk_batching),
    Check(4, "buffering", "the answer arrives at once", stream_checks.buffered_stream),
    Check(5, "first event", "TTFT of what is no token yet", stream_checks.early_first_event),
    Check(6, "token accounting", "tokens/s off by 10 to 50 %", token_checks.token_accounting),
    Check(
        7, "output lengths", "short answers look fast", token_checks.length_honoured, by_class=True
    ),
    Check(
        8,
        "prefix cache",
        "repeated prompts make TTFT collapse",
        token_checks.prefix_cache,
        by_class=True,
    ),
    Check(9, "coordinated omission", "stalls vanish", arrival_checks.coordinated_omission),
    Check(10, "Little's law", "a closed loop hides its queue", arrival_checks.closed_loop),
    Check(11, "thundering herd", "TTFT is a place in a queue", arrival_checks.thundering_herd),
    Check(12, "warm-up and drift", "the mean of two regimes", window_checks.steadiness),
    Check(13, "ramp and drain", "throughput depends on the length", window_checks.ramp_and_drain),
    Check(14, "survivorship", "the slowest requests are gone", window_checks.survivorship),
    Check(15, "failures", "failures make latency good", outcome_checks.fast_failures),
    Check(16, "samples", "a p99 that is the maximum", window_checks.sample_size),
    Check(17, "connections", "a round trip more in TTFT", client_checks.connection_set_up),
    Check(18, "client limits", "an open loop silently closed", client_checks.pool_limit),
    Check(
        19,
        "arrivals",
        "workers send the same, or too much",
        arrival_checks.arrival_law,
        by_class=True,
    ),
    Check(20, "percentiles", "5 % of rounding", outcome_checks.bucketed_percentiles),
    Check(21, "adapter mix", "a Zipf mix was uniform", adapter_checks.adapter_mix, by_class=True),
    Check(22, "known answers", "fast and wrong", adapter_checks.canaries),
    Check(23, "truncation", "cut answers count as good", stream_checks.truncated_success),
    Check(24, "hidden retries", "more load than was counted", outcome_checks.hidden_retries),
    Check(25, "the machine", "client and server fight", client_checks.shared_machine),
    Check(
        26,
        "prompt lengths",
        "prompts longer than declared",
        token_checks.prompt_drift,
        by_class=True,
    ),
    Check(27, "clocks", "negative times", client_checks.clock_steps),
    Check(28, "rows", "metrics counted as requests", outcome_checks.rows_are_requests),
    Check(29, "hysteresis", "the order of levels decides", window_checks.hysteresis),
    Check(30, "fairness", "the average adapter looks fine", adapter_checks.adapter_fairness),
)
