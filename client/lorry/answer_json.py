"""A generation or its failure as a JSON object of plain values, for programs that read a command."""

from __future__ import annotations

from typing import Any

import msgspec

from lorry.errors import ClientError
from lorry.generation import Generation
from lorry.timing import Timing


def answer_fields(generation: Generation) -> dict[str, Any]:
    """Text, counts and times (seconds); what is not known is null."""
    usage = generation.usage
    return {
        "adapter": generation.adapter,
        "model": generation.model,
        "text": generation.text,
        "tool_calls": [call.to_message() for call in generation.tool_calls],
        "finish_reason": generation.finish_reason,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "cached_tokens": usage.cached_tokens,
        "request_id": generation.request_id,
        "attempts": generation.attempts,
        "timing": timing_fields(generation.timing),
    }


def failure_fields(error: ClientError, *, adapter: str | None) -> dict[str, Any]:
    """What failed and how; `text` is what had come."""
    return {
        "adapter": adapter,
        "text": "" if error.partial is None else error.partial.text,
        "error": {"type": type(error).__name__, "message": str(error), "status": error.status},
        "request_id": error.request_id,
        "attempts": error.attempts,
        "timing": None if error.timing is None else timing_fields(error.timing),
    }


def timing_fields(timing: Timing) -> dict[str, Any]:
    """The derived times in seconds, and the server's account in its own milliseconds."""
    return {
        "queue": timing.queue,
        "connect": timing.connect,
        "ttft": timing.ttft,
        "tpot": timing.tpot,
        "e2e": timing.e2e,
        "server": None if timing.server is None else msgspec.to_builtins(timing.server),
    }
