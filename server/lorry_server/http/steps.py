"""`GET /v1/steps`: the engine's last steps, for a client that polls."""

from __future__ import annotations

import time
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from lorry.types.steps import Step, StepList
from lorry_server.engine.step_log import StepEntry, StepLog
from lorry_server.http.json_response import json_response
from lorry_server.http.query_number import QueryNumber, refuse_others
from lorry_server.http.serving import Serving

DEFAULT_LIMIT = 100
SINCE = QueryNumber(
    name="since",
    meaning="The index of the first step that is wanted. Without it: the newest ones.",
    least=0,
    most=2**63 - 1,
)
LIMIT = QueryNumber(
    name="limit",
    meaning=f"How many at most. Without it: {DEFAULT_LIMIT}.",
    least=1,
    most=1000,
)


@dataclass(frozen=True, slots=True)
class StepsEndpoint:
    serving: Serving

    async def list(self, request: Request) -> Response:
        refuse_others(request, (SINCE, LIMIT))
        limit = LIMIT.read(request)
        engine = self.serving.engine
        return json_response(
            step_list(
                engine.step_log,
                since=SINCE.read(request),
                limit=DEFAULT_LIMIT if limit is None else limit,
                num_blocks=engine.info.num_blocks,
                # The clocks are read together, so that all steps are moved by one difference.
                wall_minus_monotonic_s=time.time() - time.perf_counter(),
            )
        )


def step_list(
    log: StepLog,
    *,
    since: int | None,
    limit: int,
    num_blocks: int,
    wall_minus_monotonic_s: float,
) -> StepList:
    entries = log.read(since=since, limit=limit)
    if entries:
        following = entries[-1].step_index + 1
        missed = 0 if since is None else entries[0].step_index - since
    else:
        # An index beyond the last step is of a server that has been started again since.
        following = log.num_steps if since is None else min(since, log.num_steps)
        missed = 0
    return StepList(
        steps=[wire_step(entry, wall_minus_monotonic_s) for entry in entries],
        next=following,
        missed=missed,
        kv_blocks_total=num_blocks,
    )


def wire_step(entry: StepEntry, wall_minus_monotonic_s: float) -> Step:
    return Step(
        index=entry.step_index,
        start_ns=round(entry.start_s * 1e9),
        start_ms=round((entry.start_s + wall_minus_monotonic_s) * 1e3, 3),
        step_ms=round((entry.end_s - entry.start_s) * 1e3, 4),
        batch=entry.num_sequences,
        prefill_tokens=entry.num_prefill_tokens,
        decode_tokens=entry.num_decode_tokens,
        adapters=entry.num_adapters,
        running=entry.num_running,
        waiting=entry.num_waiting,
        kv_blocks_used=entry.num_used_blocks,
        preemptions=entry.num_preemptions,
        adapter_attaches=entry.num_attaches,
    )
