"""Engines on a `FakeRunner`, and what such an engine must generate."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

from lorry_server.engine.block_pool import BlockPool
from lorry_server.engine.drafting import Drafter
from lorry_server.engine.engine import Engine
from lorry_server.engine.fairness import make_policy
from lorry_server.engine.outputs import TokenOutput
from lorry_server.engine.request import Request, SamplingParams
from lorry_server.engine.scheduler import Scheduler
from lorry_server.lora.residency import Residency
from tests.support.fake_adapters import fake_prepared
from tests.support.fake_runner import NO_ADAPTER, FakeRunner, next_token

VOCAB_SIZE = 1000
EOS = 7


def make_engine(
    *,
    num_blocks: int = 32,
    block_size: int = 4,
    max_num_seqs: int = 8,
    max_num_batched_tokens: int = 16,
    max_model_len: int = 64,
    prefix_caching: bool = True,
    adapters: dict[str, int] | None = None,
    adapter_budget: int | None = None,
    runner: FakeRunner | None = None,
    speculate: int = 0,
    scheduling: str = "fair",
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Engine, FakeRunner]:
    """A small engine; `adapters` maps digests to bytes, and are numbered in that order.

    All of them fit at once, unless `adapter_budget` says how many bytes do.
    `speculate` is the greatest length of a draft; 0 drafts nothing.
    """
    if runner is None:
        runner = FakeRunner(num_blocks=num_blocks, block_size=block_size, vocab_size=VOCAB_SIZE)
    adapters = adapters or {}
    if adapter_budget is None:
        adapter_budget = sum(adapters.values())
    scheduler = Scheduler(
        BlockPool(num_blocks),
        Residency(runner.adapters, budget_bytes=adapter_budget),
        block_size=block_size,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        prefix_caching=prefix_caching,
        policy=make_policy(scheduling, full_step=max_num_batched_tokens),
        drafter=make_drafter(speculate, max_model_len=max_model_len),
    )
    engine = Engine(
        scheduler,
        runner,
        block_size=block_size,
        eos_token_ids=(EOS,),
        max_model_len=max_model_len,
        clock=clock,
    )
    for number, (digest, num_bytes) in enumerate(adapters.items()):
        engine.offer_adapter(fake_prepared(digest, num_bytes=num_bytes, number=number))
    return engine, runner


def make_drafter(speculate: int, *, max_model_len: int) -> Drafter | None:
    if speculate == 0:
        return None
    return Drafter(max_draft_tokens=speculate, max_model_len=max_model_len)


def request(
    request_id: str,
    prompt: list[int],
    *,
    adapter: str | None = None,
    arrival_s: float = 0.0,
    deadline_s: float | None = None,
    **sampling: object,
) -> Request:
    params = {"max_tokens": 4, "ignore_eos": True, **sampling}
    return Request(
        request_id,
        tuple(prompt),
        SamplingParams(**params),  # type: ignore[arg-type] # names are checked by the call itself
        adapter=adapter,
        arrival_s=arrival_s,
        deadline_s=deadline_s,
    )


def run_to_end(engine: Engine, *, max_steps: int = 2000) -> dict[str, list[TokenOutput]]:
    """Step until nothing is left, checking the invariants between steps."""
    outputs: dict[str, list[TokenOutput]] = defaultdict(list)
    for _ in range(max_steps):
        if not engine.has_work:
            return outputs
        for output in engine.step():
            outputs[output.request_id].append(output)
        engine.check_integrity()
    raise AssertionError(f"the engine still had work after {max_steps} steps")


def generated(outputs: list[TokenOutput]) -> list[int]:
    return [token_id for output in outputs for token_id in output.token_ids]


def expected_tokens(prompt: list[int], num_tokens: int, *, adapter: int = NO_ADAPTER) -> list[int]:
    """What a `FakeRunner` generates for a prompt that is alone in an endless cache.

    `adapter` is its adapter's number.
    """
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(next_token(tokens, [adapter] * len(tokens), vocab_size=VOCAB_SIZE))
    return tokens[len(prompt) :]
