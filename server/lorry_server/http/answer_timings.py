"""The `timings` and `usage` objects of an answer, from those of its sequences."""

from __future__ import annotations

import time
from collections.abc import Sequence

from lorry.types.common import PromptTokensDetails, Timings, Usage
from lorry_server.engine.outputs import SequenceTimings
from lorry_server.http.request_record import RequestRecord


def answer_timings(
    sequences: Sequence[SequenceTimings], *, record: RequestRecord, adapter: str | None
) -> Timings | None:
    """Report the slowest sequence, and the sums of what they have in common.

    `total_ms` ends now; so this is called when the answer, or its last event, is written.
    """
    if not sequences:
        return None
    slowest = max(sequences, key=computed_ms)
    total_ms = 1e3 * (time.perf_counter() - record.arrival_s)
    submitted_s = record.arrival_s if record.submitted_s is None else record.submitted_s
    first_steps = [s.first_step for s in sequences if s.first_step is not None]
    last_steps = [s.last_step for s in sequences if s.last_step is not None]
    return Timings(
        request_id=record.request_id,
        adapter=adapter,
        queue_ms=round(slowest.queue_ms, 3),
        prefill_ms=round(slowest.prefill_ms, 3),
        decode_ms=round(slowest.decode_ms, 3),
        cached_tokens=sum(s.cached_tokens for s in sequences),
        steps=slowest.steps,
        max_batch=max(s.max_batch for s in sequences),
        preemptions=sum(s.preemptions for s in sequences),
        adapter_load_ms=round(record.adapter_load_ms, 3),
        prepare_ms=round(1e3 * (submitted_s - record.arrival_s) - record.adapter_load_ms, 3),
        finish_ms=round(total_ms - computed_ms(slowest), 3),
        total_ms=round(total_ms, 3),
        first_step=min(first_steps, default=None),
        last_step=max(last_steps, default=None),
    )


def computed_ms(sequence: SequenceTimings) -> float:
    """From the request's arrival to the sequence's last token."""
    return sequence.queue_ms + sequence.prefill_ms + sequence.decode_ms


def usage(*, prompt_tokens: int, completion_tokens: int, cached_tokens: int | None) -> Usage:
    """`cached_tokens` is None while it is not known."""
    details = None
    if cached_tokens is not None:
        details = PromptTokensDetails(cached_tokens=min(cached_tokens, prompt_tokens))
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
        prompt_tokens_details=details,
    )
