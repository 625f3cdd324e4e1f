"""The `timings` and `usage` objects of an answer, from those of its sequences."""

from __future__ import annotations

from collections.abc import Sequence

from lorry.types.common import PromptTokensDetails, Timings, Usage
from lorry_server.engine.outputs import SequenceTimings


def answer_timings(
    sequences: Sequence[SequenceTimings], *, request_id: str, adapter: str | None
) -> Timings | None:
    """Report the slowest sequence, and the sums of what they have in common."""
    if not sequences:
        return None
    slowest = max(sequences, key=lambda s: s.queue_ms + s.prefill_ms + s.decode_ms)
    return Timings(
        request_id=request_id,
        adapter=adapter,
        queue_ms=round(slowest.queue_ms, 3),
        prefill_ms=round(slowest.prefill_ms, 3),
        decode_ms=round(slowest.decode_ms, 3),
        cached_tokens=sum(s.cached_tokens for s in sequences),
        steps=slowest.steps,
        max_batch=max(s.max_batch for s in sequences),
        preemptions=sum(s.preemptions for s in sequences),
    )


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
