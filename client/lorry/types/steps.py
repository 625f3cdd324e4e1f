"""`GET /v1/steps`: what the server's last steps were."""

from __future__ import annotations

from msgspec import Struct


class Step(Struct, frozen=True):
    """One forward pass of the model. Indices count steps since the server's start.

    `start_ns` is on the server's monotonic clock, `start_ms` the same moment in milliseconds since
    1970, as the server's wall clock had it when it was asked. `step_ms` ends when the step's
    tokens were there. `batch` sequences computed `prefill_tokens`, prompts and what was computed
    again after a preemption, and `decode_tokens`, drafts included, on `adapters` different
    adapters. `running`, `waiting` and `kv_blocks_used` are as the step was computed; `preemptions`
    and `adapter_attaches` are what it took.
    """

    index: int
    start_ns: int
    start_ms: float
    step_ms: float
    batch: int
    prefill_tokens: int
    decode_tokens: int
    adapters: int
    running: int
    waiting: int
    kv_blocks_used: int
    preemptions: int
    adapter_attaches: int


class StepList(Struct, frozen=True):
    """Some of the steps that are kept, oldest first.

    Ask for `next` to go on where these end. `missed` is how many of those that were asked for are
    not kept any more; they were older than the first one here. `kv_blocks_total` is all blocks.
    """

    steps: list[Step]
    next: int
    missed: int
    kv_blocks_total: int
