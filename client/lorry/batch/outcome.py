"""What became of one item of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lorry.errors import ClientError
from lorry.generation import Generation
from lorry.timing import Timing


@dataclass(frozen=True, slots=True)
class Outcome:
    """A generation or the error in its place. `index` is the item's position in the input."""

    index: int
    result: Generation | ClientError
    adapter: str | None
    tag: Any = None
    from_journal: bool = False

    @property
    def timing(self) -> Timing | None:
        return self.result.timing

    @property
    def num_tokens(self) -> int:
        """Output tokens, 0 for an error."""
        if isinstance(self.result, ClientError):
            return 0
        return self.result.usage.completion_tokens or 0


def lateness_s(timing: Timing) -> float:
    """From when the request was due to when its call began."""
    return (timing.created_ns - timing.intended_ns) / 1e9


def e2e_from_intended_s(timing: Timing) -> float | None:
    """From when the request was due to the end of the answer."""
    return None if timing.done_ns is None else (timing.done_ns - timing.intended_ns) / 1e9


def as_record(outcome: Outcome) -> dict[str, Any]:
    """One flat row: times in seconds, None where something is not known."""
    result, timing = outcome.result, outcome.timing
    row: dict[str, Any] = {
        "index": outcome.index,
        "tag": outcome.tag,
        "adapter": outcome.adapter,
        "text": None,
        "finish_reason": None,
        "prompt_tokens": None,
        "completion_tokens": None,
        "cached_tokens": None,
        "error": None,
        "error_message": None,
    }
    if isinstance(result, ClientError):
        row |= {"error": type(result).__name__, "error_message": str(result)}
    else:
        row |= {
            "text": result.text,
            "finish_reason": result.finish_reason,
            "prompt_tokens": result.usage.prompt_tokens,
            "completion_tokens": result.usage.completion_tokens,
            "cached_tokens": result.usage.cached_tokens,
        }
    return row | {
        "lateness_s": None if timing is None else lateness_s(timing),
        "queue_s": None if timing is None else timing.queue,
        "ttft_s": None if timing is None else timing.ttft,
        "ttft_from_intended_s": None if timing is None else timing.ttft_from_intended,
        "tpot_s": None if timing is None else timing.tpot,
        "e2e_s": None if timing is None else timing.e2e,
        "attempts": result.attempts,
        "request_id": result.request_id,
        "endpoint": result.endpoint,
        "from_journal": outcome.from_journal,
    }
