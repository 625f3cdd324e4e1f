"""`EngineClient`: what the HTTP side may ask of an engine, wherever that engine runs.

A thread beside the event loop implements it today (`engine.service`); tests implement it with
scripted tokens. Every method is called on the event loop and returns at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lorry_server.engine.outputs import TokenOutput
from lorry_server.engine.request import Request
from lorry_server.engine.step_log import StepLog
from lorry_server.lora.prepared import PreparedAdapter


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Facts that do not change while the engine runs."""

    model_id: str
    model_path: str
    architecture: str
    dtype: str
    device: str
    quantization: str
    max_model_len: int
    logits_width: int
    eos_token_ids: tuple[int, ...]
    block_size: int
    num_blocks: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_queued_requests: int
    adapter_budget_bytes: int  # on the device


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Counters and gauges at one step boundary; counters only grow."""

    num_running: int = 0
    num_waiting: int = 0
    num_used_blocks: int = 0
    num_cached_blocks: int = 0
    num_adapter_pins: int = 0
    num_preemptions: int = 0
    num_steps: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    prefix_cache_queries: int = 0  # tokens looked up
    prefix_cache_hits: int = 0  # tokens found
    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0  # draft tokens that spared a step
    corrupted_requests: int = 0
    adapter_hits: int = 0  # sequences that found their adapter resident
    adapter_attaches: int = 0
    adapter_evictions: int = 0
    resident_adapters: tuple[str, ...] = ()  # digests
    resident_adapter_bytes: int = 0
    running_adapters: tuple[str, ...] = ()  # digests
    waiting_adapters: tuple[str, ...] = ()
    is_healthy: bool = True
    is_draining: bool = False
    seconds_since_progress: float = 0.0  # 0 while idle


class RequestStream(Protocol):
    """The outputs of one sequence, for one reader. A reader that leaves before the end aborts."""

    @property
    def request_id(self) -> str: ...
    def listen(self, listener: Callable[[TokenOutput], None]) -> None:
        """Have `listener` called on the event loop with every output as it comes.

        It is called at once with what has come already. It only learns of the output: whoever
        reads still takes it.
        """
        ...

    def take(self) -> TokenOutput:
        """Return what came since the last call, merged; only to be called when something did."""
        ...

    def abort(self) -> None:
        """End the sequence now; harmless when it has ended."""
        ...

    def lift_deadline(self) -> None:
        """Compute the sequence to its end though its deadline passes; harmless when it has ended."""
        ...


class EngineClient(Protocol):
    """Submit, abort, look."""

    @property
    def info(self) -> EngineInfo: ...

    def submit(self, requests: Sequence[Request]) -> list[RequestStream]:
        """Admit all of `requests` to the queue, or none.

        Raises `QueueFullError` or `DrainingError` (`lorry_server.errors`), each with
        `retry_after_s`, and `EngineDeadError` when the engine has failed.
        """
        ...

    def offer_adapter(self, prepared: PreparedAdapter) -> None:
        """Make an adapter known: requests that are submitted from now on may name its digest.

        Raises AdapterError when it is larger than all of the device's memory for adapters.
        """
        ...

    def withdraw_adapter(self, digest: str) -> None:
        """Forget an adapter; what was submitted before still ends on it. Harmless if unknown."""
        ...

    def set_adapter_weight(self, digest: str | None, weight: float) -> None:
        """Give an adapter, or the base model, `weight` times the share of one with weight 1.

        The weight, which is greater than 0, outlives the adapter; 1.0 takes it back.
        """
        ...

    def stats(self) -> EngineStats: ...

    @property
    def step_log(self) -> StepLog:
        """What the last steps were; read it, from any thread."""
        ...

    async def drain(self) -> None:
        """Refuse new requests and return when every accepted one has ended."""
        ...
