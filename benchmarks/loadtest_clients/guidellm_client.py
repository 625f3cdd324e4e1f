"""The client of guidellm, for `benchmarks/loadtest_stamps.py`: its HTTP backend, in one process as in
one of its workers, on the event loop that it chooses."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from guidellm.backends.openai.http import OpenAIHTTPBackend
from guidellm.schemas import GenerationRequest, GenerationResponse, RequestInfo, UsageMetrics
from guidellm.schemas.backends import OpenAIHTTPBackendArgs
from jobs import answer_jobs, on_schedule


@dataclass(frozen=True)
class Told:
    """`offset_s` is how far the wall clock, which it stamps with, was ahead of the monotonic one."""

    request: GenerationRequest
    response: GenerationResponse
    info: RequestInfo
    offset_s: float


async def run(job: dict[str, Any]) -> list[Told]:
    backend = OpenAIHTTPBackend(
        OpenAIHTTPBackendArgs(
            target=job["url"],
            model="mock-base",
            request_format="/v1/completions",
            validate_backend=False,
        )
    )
    await backend.process_startup()

    async def ask(number: int) -> Told:
        request = GenerationRequest(
            columns={"text_column": ["a b"]},
            output_metrics=UsageMetrics(text_tokens=job["num_tokens"]),
        )
        info = RequestInfo(request_id=request.request_id)
        response = None
        async for told, told_info in backend.resolve(request, info):
            response, info = told, told_info
        assert response is not None  # its last one, or it has raised
        info.timings.resolve_end = time.time()
        info.status = "completed"
        return Told(request, response, info, time.time() - time.perf_counter())

    try:
        return await on_schedule(job["times_ns"], ask)
    finally:
        await backend.process_shutdown()


def stamps_of(told: Told) -> tuple[str, list[int]]:
    """It keeps the times of the first token and of the last, and spreads the others evenly."""
    stats = told.response.compile_stats(told.request, told.info)
    stamps = [round((at_s - told.offset_s) * 1e9) for at_s, _ in stats.output_tokens_timings]
    return str(told.response.response_id), stamps


if __name__ == "__main__":
    answer_jobs("guidellm", run, stamps_of)
