"""`Engine`: schedule a step, run it, commit what came out. Synchronous, owned by one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from lorry_server.engine.outputs import FinishReason, TokenLogprobs, TokenOutput
from lorry_server.engine.plan import OK, SAMPLE, StepPlan, StepResult
from lorry_server.engine.planner import build_plan
from lorry_server.engine.request import Request
from lorry_server.engine.scheduler import ScheduledSequence, Scheduler
from lorry_server.engine.sequence import Sequence
from lorry_server.lora.slots import AdapterSlots


class ModelRunner(Protocol):
    """Computes steps on a device. It owns the KV cache and keeps nothing else between steps."""

    def run(self, plan: StepPlan) -> StepResult: ...


class Engine:
    """The sequences being generated, from `add` to their last `TokenOutput`.

    `clock` gives seconds; it stamps timings and decides nothing.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: ModelRunner,
        slots: AdapterSlots,
        *,
        block_size: int,
        eos_token_ids: tuple[int, ...],
        max_model_len: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.scheduler = scheduler
        self.slots = slots
        self.num_steps = 0
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.corrupted_requests = 0
        self._runner = runner
        self._block_size = block_size
        self._eos_token_ids = eos_token_ids
        self._max_model_len = max_model_len
        self._clock = clock
        self._sequences: dict[str, Sequence] = {}
        self._num_added = 0

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    def sequences(self) -> Iterable[Sequence]:
        """All that are not finished, in order of arrival."""
        return self._sequences.values()

    def add(self, request: Request) -> None:
        """Accept a request: its adapter is resident (the edge checked) and is pinned until it ends."""
        sequence = Sequence(request, order=self._num_added, block_size=self._block_size)
        self._num_added += 1
        if request.adapter is not None:
            self.slots.pin(request.adapter)
        self._sequences[request.request_id] = sequence
        self.scheduler.add(sequence)

    def abort(self, request_id: str) -> TokenOutput | None:
        """End a request now and free what it holds; None when it has ended already."""
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return None
        return self._end(sequence, FinishReason.ABORT)

    def step(self) -> list[TokenOutput]:
        """Compute one step; return an output for every sequence that has something new.

        An exception of the runner leaves as it is, after every sequence of the step has been
        taken out (`fail_step` gives their outputs): no half-computed block stays behind.
        """
        scheduled = self.scheduler.schedule()
        if not scheduled:
            return []
        now = self._clock()
        for item in scheduled:
            sequence = item.sequence
            if sequence.first_step_s is None:
                sequence.first_step_s = now
            sequence.num_steps += 1
            sequence.max_batch = max(sequence.max_batch, len(scheduled))
        plan = build_plan(
            scheduled,
            block_size=self._block_size,
            slots=self.slots,
            eos_token_ids=self._eos_token_ids,
        )
        try:
            result = self._runner.run(plan)
        except Exception as exc:
            raise StepFailed(self._fail(scheduled)) from exc
        self.num_steps += 1
        return self._commit(scheduled, plan, result)

    def fail_all(self, error: str) -> list[TokenOutput]:
        """End every sequence with an error: the engine cannot go on."""
        return [
            self._end(sequence, FinishReason.ERROR, error=error)
            for sequence in list(self._sequences.values())
        ]

    def _fail(self, scheduled: list[ScheduledSequence]) -> list[TokenOutput]:
        message = "the model failed while computing this request's step"
        return [self._end(s.sequence, FinishReason.ERROR, error=message) for s in scheduled]

    def _commit(
        self, scheduled: list[ScheduledSequence], plan: StepPlan, result: StepResult
    ) -> list[TokenOutput]:
        now = self._clock()
        logits = plan.logits
        is_corrupt_S = [False] * len(scheduled)
        for index in logits.sequences_N[result.status_N != OK].tolist():
            is_corrupt_S[index] = True
        for item, is_corrupt in zip(scheduled, is_corrupt_S, strict=True):
            first = item.sequence.num_computed_tokens
            prompt_end = item.sequence.num_prompt_tokens
            self.prompt_tokens += max(0, min(first + item.num_tokens, prompt_end) - first)
            if not is_corrupt:  # else its blocks would be found by others in the prefix cache
                self.scheduler.mark_computed(item)
        outputs = []
        for row in range(len(logits.rows_N)):
            sequence = scheduled[logits.sequences_N[row]].sequence
            if sequence.finish_reason is not None:
                continue  # an earlier row ended it
            if is_corrupt_S[logits.sequences_N[row]]:
                self.corrupted_requests += 1
                error = "the model produced a value that is not a number for this request"
                outputs.append(self._end(sequence, FinishReason.ERROR, error=error))
            elif logits.targets_N[row] == SAMPLE:
                logprobs = _logprobs(plan, result, row)
                token_id = int(result.token_ids_N[row])
                outputs.append(self._accept(sequence, token_id, logprobs, now))
            else:
                logprobs = _logprobs(plan, result, row)
                assert logprobs is not None
                sequence.prompt_logprobs.append(logprobs)
        return outputs

    def _accept(
        self, sequence: Sequence, token_id: int, logprobs: TokenLogprobs | None, now: float
    ) -> TokenOutput:
        sequence.token_ids.append(token_id)
        self.generation_tokens += 1
        is_first = sequence.first_token_s is None
        if is_first:
            sequence.first_token_s = now
        sequence.last_token_s = now
        finish_reason = self._finish_reason(sequence, token_id)
        prompt_logprobs = None
        if is_first and sequence.request.sampling.num_prompt_logprobs is not None:
            nothing_before = TokenLogprobs(sequence.token_ids[0], None)
            prompt_logprobs = (nothing_before, *sequence.prompt_logprobs)
        if finish_reason is not None:
            self._remove(sequence, finish_reason)
        return TokenOutput(
            request_id=sequence.request.request_id,
            token_ids=(token_id,),
            logprobs=None if logprobs is None else (logprobs,),
            prompt_logprobs=prompt_logprobs,
            finish_reason=finish_reason,
            stop_token_id=token_id if finish_reason is FinishReason.STOP_TOKEN else None,
            timings=None if finish_reason is None else sequence.timings(),
        )

    def _finish_reason(self, sequence: Sequence, token_id: int) -> FinishReason | None:
        params = sequence.request.sampling
        if sequence.num_completion_tokens >= params.min_tokens:
            if token_id in self._eos_token_ids and not params.ignore_eos:
                return FinishReason.EOS
            if token_id in params.stop_token_ids:
                return FinishReason.STOP_TOKEN
        if sequence.num_completion_tokens >= params.max_tokens:
            return FinishReason.LENGTH
        if sequence.num_tokens >= self._max_model_len:
            return FinishReason.LENGTH
        return None

    def _end(
        self, sequence: Sequence, finish_reason: FinishReason, *, error: str | None = None
    ) -> TokenOutput:
        self._remove(sequence, finish_reason)
        return TokenOutput(
            request_id=sequence.request.request_id,
            token_ids=(),
            finish_reason=finish_reason,
            error=error,
            timings=sequence.timings(),
        )

    def _remove(self, sequence: Sequence, finish_reason: FinishReason) -> None:
        sequence.finish_reason = finish_reason
        self.scheduler.finish(sequence)
        del self._sequences[sequence.request.request_id]
        if sequence.request.adapter is not None:
            self.slots.unpin(sequence.request.adapter)

    def check_integrity(self) -> None:
        """Assert that blocks, sequences and pins agree with each other."""
        self.scheduler.check_integrity()
        num_lined_up = len(self.scheduler.waiting) + len(self.scheduler.running)
        assert len(self._sequences) == num_lined_up
        num_with_adapter = sum(s.request.adapter is not None for s in self._sequences.values())
        assert self.slots.num_pins == num_with_adapter


class StepFailed(Exception):
    """A step raised; `outputs` ends the sequences that were in it."""

    def __init__(self, outputs: list[TokenOutput]) -> None:
        super().__init__("a step failed")
        self.outputs = outputs


def _logprobs(plan: StepPlan, result: StepResult, row: int) -> TokenLogprobs | None:
    num_logprobs = int(plan.logits.num_logprobs_N[row])
    if num_logprobs < 0:
        return None
    top = zip(
        result.top_ids_NK[row, :num_logprobs].tolist(),
        result.top_logprobs_NK[row, :num_logprobs].tolist(),
        strict=True,
    )
    return TokenLogprobs(int(result.token_ids_N[row]), float(result.logprobs_N[row]), tuple(top))
