"""`FakeEngine`: an `EngineClient` that answers with scripted tokens, when the test lets it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from lorry_server.engine.client import EngineInfo, EngineStats, RequestStream
from lorry_server.engine.outputs import (
    FinishReason,
    SequenceTimings,
    TokenLogprobs,
    TokenOutput,
)
from lorry_server.engine.request import Request
from lorry_server.engine.step_log import StepLog
from lorry_server.engine.token_stream import TokenStream
from lorry_server.lora.prepared import PreparedAdapter

TIMINGS = SequenceTimings(
    queue_ms=1.5,
    prefill_ms=20.0,
    decode_ms=30.0,
    cached_tokens=0,
    steps=3,
    max_batch=2,
    preemptions=0,
    first_step=4,
    last_step=7,
)
NEVER_RAN = replace(TIMINGS, steps=0, first_step=None, last_step=None)


def fake_info(**changes: object) -> EngineInfo:
    facts: dict[str, object] = {
        "model_id": "tiny/model",
        "model_path": "/models/tiny",
        "architecture": "FakeForCausalLM",
        "dtype": "float32",
        "device": "cpu",
        "quantization": "none",
        "max_model_len": 128,
        "logits_width": 320,
        "eos_token_ids": (2,),
        "block_size": 16,
        "num_blocks": 64,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 256,
        "max_queued_requests": 8,
        "adapter_budget_bytes": 1 << 20,
    }
    return EngineInfo(**(facts | changes))  # type: ignore[arg-type]  # values of many types


class FakeEngine:
    """Produces `script(request)` for each request, one token an output, until it has to end.

    A sequence ends at an end-of-sequence or stop token, at `max_tokens`, or when the script does,
    as if the next token were the end. `hold()` makes every sequence wait before its next token
    until `release()` or, for single tokens, `step()`.

    `adapters` are the names that a library over it is to begin with (`fake_library`). It takes
    requests only for adapters that have been offered and not withdrawn.
    """

    def __init__(
        self,
        script: Callable[[Request], Sequence[int]] | Sequence[int] = (),
        *,
        info: EngineInfo | None = None,
        adapters: Sequence[str] = (),
        tokens_per_output: int = 1,
    ) -> None:
        self._script = script
        self._info = info or fake_info()
        self.adapter_names = tuple(adapters)
        self.offered: dict[str, PreparedAdapter] = {}  # and not withdrawn
        self._tokens_per_output = tokens_per_output
        self._flow = asyncio.Condition()
        self._is_held = False
        self._num_allowed = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: dict[str, TokenStream] = {}
        self._changed = asyncio.Event()
        self.submitted: list[Request] = []
        self.aborted: list[str] = []
        self.lifted: list[str] = []  # whose deadlines do not count any more
        self.refusal: Exception | None = None  # what submit() raises
        self.fail_after: int | None = None  # tokens until a sequence ends with an error
        self.end_after: int | None = None  # tokens until the engine itself aborts it
        self.expire_after: int | None = None  # tokens until its deadline has passed
        self.weights: dict[str | None, float] = {}
        self.current_stats = EngineStats()
        self.step_log = StepLog(num_kept=4)

    @property
    def info(self) -> EngineInfo:
        return self._info

    @property
    def num_open(self) -> int:
        """Sequences that have neither ended nor been aborted."""
        return len(self._streams)

    def submit(self, requests: Sequence[Request]) -> list[RequestStream]:
        if self.refusal is not None:
            raise self.refusal
        streams: list[RequestStream] = []
        for request in requests:
            assert request.request_id not in self._streams, "request ids are unique"
            assert request.adapter is None or request.adapter in self.offered
            stream = TokenStream(
                request.request_id, abort=self._abort, lift_deadline=self.lifted.append
            )
            self._streams[request.request_id] = stream
            self.submitted.append(request)
            task = asyncio.get_running_loop().create_task(self._run(request, stream))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            streams.append(stream)
        self._note_change()
        return streams

    def set_adapter_weight(self, digest: str | None, weight: float) -> None:
        self.weights[digest] = weight

    def stats(self) -> EngineStats:
        return self.current_stats

    def offer_adapter(self, prepared: PreparedAdapter) -> None:
        assert prepared.digest not in self.offered, "an adapter is offered once"
        self.offered[prepared.digest] = prepared

    def withdraw_adapter(self, digest: str) -> None:
        del self.offered[digest]

    async def drain(self) -> None:
        await self.wait_for(lambda: not self._streams)

    # -- the test's side

    def hold(self) -> None:
        self._is_held = True

    async def step(self, num_tokens: int = 1) -> None:
        """Let every held sequence produce this many tokens."""
        async with self._flow:
            self._num_allowed += num_tokens
            self._flow.notify_all()

    async def release(self) -> None:
        async with self._flow:
            self._is_held = False
            self._flow.notify_all()

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return when `condition` holds; it is looked at whenever a sequence begins or ends."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    # -- sequences

    def _note_change(self) -> None:
        self._changed.set()

    def _abort(self, request_id: str) -> None:
        stream = self._streams.pop(request_id, None)
        if stream is None:
            return
        self.aborted.append(request_id)
        stream.push(TokenOutput(request_id, (), finish_reason=FinishReason.ABORT, timings=TIMINGS))
        self._note_change()

    async def _run(self, request: Request, stream: TokenStream) -> None:
        token_ids = self._script(request) if callable(self._script) else self._script
        sampling = request.sampling
        plan = list(token_ids)[: sampling.max_tokens]
        prompt_logprobs = fake_prompt_logprobs(request)
        sent = 0
        while request.request_id in self._streams:
            await self._wait_for_turn(sent)
            if request.request_id not in self._streams:
                return
            expire_after = None if request.request_id in self.lifted else self.expire_after
            chunk: list[int] = []
            finish, stop_token_id = None, None
            while len(chunk) < self._tokens_per_output and finish is None:
                place = sent + len(chunk)
                if place in (self.fail_after, self.end_after, expire_after):
                    break
                token_id = plan[place] if place < len(plan) else self._info.eos_token_ids[0]
                chunk.append(token_id)
                if token_id in sampling.stop_token_ids:
                    finish, stop_token_id = FinishReason.STOP_TOKEN, token_id
                elif token_id in self._info.eos_token_ids and not sampling.ignore_eos:
                    finish = FinishReason.EOS
                elif place + 1 == sampling.max_tokens:
                    finish = FinishReason.LENGTH
            error = None
            if finish is None and sent + len(chunk) == self.fail_after:
                finish, error = FinishReason.ERROR, "the row's logits were not finite"
            if finish is None and sent + len(chunk) == self.end_after:
                finish = FinishReason.ABORT
            timings = TIMINGS
            if finish is None and sent + len(chunk) == expire_after:
                finish, timings = FinishReason.DEADLINE, TIMINGS if sent else NEVER_RAN
            if finish is not None:
                del self._streams[request.request_id]
            stream.push(
                TokenOutput(
                    request_id=request.request_id,
                    token_ids=tuple(chunk),
                    logprobs=fake_logprobs(request, chunk),
                    prompt_logprobs=prompt_logprobs if sent == 0 else None,
                    finish_reason=finish,
                    stop_token_id=stop_token_id,
                    error=error,
                    timings=timings if finish is not None else None,
                )
            )
            sent += len(chunk)
            if finish is not None:
                self._note_change()
                return
            await asyncio.sleep(0)  # what a reader sees must not depend on who runs first

    async def _wait_for_turn(self, num_sent: int) -> None:
        async with self._flow:
            await self._flow.wait_for(lambda: not self._is_held or num_sent < self._num_allowed)


def fake_logprobs(request: Request, token_ids: Sequence[int]) -> tuple[TokenLogprobs, ...] | None:
    """A token's logprob is minus a hundredth of its id; the best others count up from it."""
    num = request.sampling.num_logprobs
    if num is None:
        return None
    return tuple(fake_token_logprobs(token_id, num) for token_id in token_ids)


def fake_prompt_logprobs(request: Request) -> tuple[TokenLogprobs, ...] | None:
    num = request.sampling.num_prompt_logprobs
    if num is None:
        return None
    first, *rest = request.prompt_token_ids
    return (TokenLogprobs(first, None), *(fake_token_logprobs(t, num) for t in rest))


def fake_token_logprobs(token_id: int, num: int) -> TokenLogprobs:
    top = tuple((token_id + i, -(token_id + i) / 100) for i in range(num))
    return TokenLogprobs(token_id, -token_id / 100, top)
