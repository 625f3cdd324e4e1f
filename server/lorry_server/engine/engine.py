"""`Engine`: schedule a step, run it, commit what came out. Synchronous, owned by one thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from lorry_server.engine.deadlines import Deadlines
from lorry_server.engine.outputs import FinishReason, TokenLogprobs, TokenOutput
from lorry_server.engine.plan import OK, SAMPLE, StepPlan, StepResult
from lorry_server.engine.planner import build_plan
from lorry_server.engine.request import Request
from lorry_server.engine.scheduler import ScheduledSequence, Scheduler
from lorry_server.engine.sequence import Sequence
from lorry_server.engine.step_log import StepEntry, StepLog
from lorry_server.engine.step_rows import StepRows
from lorry_server.lora.prepared import PreparedAdapter


class ModelRunner(Protocol):
    """Computes steps on a device. Between them it keeps the KV cache and the attached adapters."""

    def run(self, plan: StepPlan) -> StepResult: ...


class Engine:
    """The sequences being generated, from `add` to their last `TokenOutput`.

    `clock` gives seconds, those of the requests' arrivals and deadlines. Between two steps it ends
    what has run out of time; for the rest it stamps timings and decides nothing.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: ModelRunner,
        *,
        block_size: int,
        eos_token_ids: tuple[int, ...],
        max_model_len: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.scheduler = scheduler
        self.residency = scheduler.residency
        self.num_steps = 0
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.corrupted_requests = 0
        self.step_log = StepLog()
        self._runner = runner
        self._block_size = block_size
        self._eos_token_ids = eos_token_ids
        self._max_model_len = max_model_len
        self._clock = clock
        self._sequences: dict[str, Sequence] = {}
        self._num_added = 0
        self._deadlines = Deadlines()
        self._leaving: set[str] = set()  # adapters that are withdrawn once no sequence has them

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    def sequences(self) -> Iterable[Sequence]:
        """All that are not finished, in order of arrival."""
        return self._sequences.values()

    def offer_adapter(self, prepared: PreparedAdapter) -> None:
        """Take requests for an adapter from now on."""
        self._leaving.discard(prepared.digest)
        self.residency.offer(prepared)

    def withdraw_adapter(self, digest: str) -> None:
        """Forget an adapter, once every sequence that was accepted with it has ended."""
        if self._is_wanted(digest):
            self._leaving.add(digest)
        else:
            self.residency.withdraw(digest)

    def add(self, request: Request) -> TokenOutput | None:
        """Accept a request. One whose adapter was never offered has ended: its output is returned."""
        sequence = Sequence(request, order=self._num_added, block_size=self._block_size)
        self._num_added += 1
        self._sequences[request.request_id] = sequence
        self.scheduler.add(sequence)
        if request.adapter is not None and not self.residency.is_known(request.adapter):
            error = "this request's adapter is not loaded"
            return self._end(sequence, FinishReason.ERROR, error=error)
        self._deadlines.add(sequence)
        return None

    def abort(self, request_id: str) -> TokenOutput | None:
        """End a request now and free what it holds; None when it has ended already."""
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return None
        return self._end(sequence, FinishReason.ABORT)

    def lift_deadline(self, request_id: str) -> None:
        """Let a request go on beyond its deadline; harmless when it has ended or has none."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self._deadlines.lift(sequence)

    def step(self) -> list[TokenOutput]:
        """Compute one step; return an output for every sequence that has something new.

        First the sequences are ended whose deadline has passed: one that waits is never computed,
        and one that runs gives back what it holds.

        An exception of the runner leaves as it is, after every sequence of the step has been
        taken out (`fail_step` gives their outputs): no half-computed block stays behind.
        """
        now = self._clock()
        outputs = self._end_expired(now)
        scheduler, residency = self.scheduler, self.residency
        num_preemptions = scheduler.counters.num_preemptions
        num_attaches = residency.counters.attaches
        scheduled = scheduler.schedule()
        if not scheduled:
            return outputs
        index, num_prefill_tokens = self.num_steps, 0
        for item in scheduled:
            sequence = item.sequence
            if sequence.first_step_s is None:
                sequence.first_step_s, sequence.first_step = now, index
            sequence.last_step = index
            if item.num_tokens > 1 or sequence.first_token_s is None:
                num_prefill_tokens += item.num_tokens
            sequence.num_steps += 1
            if sequence.max_batch < len(scheduled):
                sequence.max_batch = len(scheduled)
        plan = build_plan(
            scheduled,
            block_size=self._block_size,
            residency=residency,
            eos_token_ids=self._eos_token_ids,
        )
        try:
            result = self._runner.run(plan)
        except Exception as exc:
            raise StepFailed(outputs + self._fail(scheduled)) from exc
        self.num_steps += 1
        end = self._clock()
        self.step_log.append(
            StepEntry(
                index,
                now,
                end,
                len(scheduled),
                num_prefill_tokens,
                plan.num_tokens - num_prefill_tokens,
                len(plan.segments.slots_G),
                len(scheduler.running),
                len(scheduler.waiting),
                scheduler.pool.num_used,
                scheduler.counters.num_preemptions - num_preemptions,
                residency.counters.attaches - num_attaches,
            )
        )
        return outputs + self._commit(scheduled, plan, result, end)

    def fail_all(self, error: str) -> list[TokenOutput]:
        """End every sequence with an error: the engine cannot go on."""
        return [
            self._end(sequence, FinishReason.ERROR, error=error)
            for sequence in list(self._sequences.values())
        ]

    def abort_all(self) -> list[TokenOutput]:
        """End every sequence: nobody can wait for them any longer."""
        return [
            self._end(sequence, FinishReason.ABORT) for sequence in list(self._sequences.values())
        ]

    def _end_expired(self, now: float) -> list[TokenOutput]:
        return [
            self._end(sequence, FinishReason.DEADLINE)
            for sequence in self._deadlines.take_expired(now)
        ]

    def _fail(self, scheduled: list[ScheduledSequence]) -> list[TokenOutput]:
        message = "the model failed while computing this request's step"
        return [self._end(s.sequence, FinishReason.ERROR, error=message) for s in scheduled]

    def _commit(
        self, scheduled: list[ScheduledSequence], plan: StepPlan, result: StepResult, now: float
    ) -> list[TokenOutput]:
        rows = StepRows(plan, result)
        outputs = []
        for item, item_rows in zip(scheduled, rows.by_sequence(len(scheduled)), strict=True):
            output = self._commit_sequence(item, item_rows, rows, now)
            if output is not None:
                outputs.append(output)
        return outputs

    def _commit_sequence(
        self, item: ScheduledSequence, item_rows: range, rows: StepRows, now: float
    ) -> TokenOutput | None:
        """Take over one sequence's rows: sampled tokens for as long as the draft foresaw them.

        A row behind the first wrong guess, or behind the sequence's end, is as if it had never
        been computed, whatever is in it.
        """
        sequence, draft = item.sequence, item.draft
        num_prompt_left = sequence.num_prompt_tokens - sequence.num_computed_tokens
        if num_prompt_left > 0:
            self.prompt_tokens += min(item.num_tokens, num_prompt_left)
        token_ids: list[int] = []
        logprobs: list[TokenLogprobs] = []
        finish_reason, error = None, None
        for row in item_rows:
            if rows.statuses[row] != OK:
                self.corrupted_requests += 1
                finish_reason = FinishReason.ERROR
                error = "the model produced a value that is not a number for this request"
                break
            row_logprobs = rows.logprobs(row)
            if rows.targets[row] != SAMPLE:
                assert row_logprobs is not None
                sequence.prompt_logprobs.append(row_logprobs)
                continue
            token_id = rows.token_ids[row]
            sequence.token_ids.append(token_id)
            if row_logprobs is not None:
                logprobs.append(row_logprobs)
            finish_reason = self._finish_reason(sequence, token_id)
            token_ids.append(token_id)
            was_foreseen = draft[len(token_ids) - 1 : len(token_ids)] == (token_id,)
            if finish_reason is not None or not was_foreseen:
                break
        if error is None:  # else its blocks would be found by others in the prefix cache
            self.scheduler.mark_computed(item, num_accepted=max(0, len(token_ids) - 1))
        if not token_ids and finish_reason is None:
            return None
        prompt_logprobs = None
        if token_ids:
            self.generation_tokens += len(token_ids)
            prompt_logprobs = self._begin_completion(sequence, now)
            sequence.last_token_s = now
        if finish_reason is not None:
            self._remove(sequence, finish_reason)
        return TokenOutput(
            request_id=sequence.request.request_id,
            token_ids=tuple(token_ids),
            logprobs=tuple(logprobs) if logprobs else None,
            prompt_logprobs=prompt_logprobs,
            finish_reason=finish_reason,
            stop_token_id=token_ids[-1] if finish_reason is FinishReason.STOP_TOKEN else None,
            error=error,
            timings=None if finish_reason is None else sequence.timings(),
        )

    def _begin_completion(self, sequence: Sequence, now: float) -> tuple[TokenLogprobs, ...] | None:
        """Stamp the first token; return the prompt's logprobs, which go out with it."""
        if sequence.first_token_s is not None:
            return None
        sequence.first_token_s = now
        if sequence.request.sampling.num_prompt_logprobs is None:
            return None
        return (TokenLogprobs(sequence.token_ids[0], None), *sequence.prompt_logprobs)

    def _finish_reason(self, sequence: Sequence, token_id: int) -> FinishReason | None:
        params = sequence.request.sampling
        num_completion_tokens = sequence.num_completion_tokens
        if num_completion_tokens >= params.min_tokens:
            if token_id in self._eos_token_ids and not params.ignore_eos:
                return FinishReason.EOS
            if token_id in params.stop_token_ids:
                return FinishReason.STOP_TOKEN
        if num_completion_tokens >= params.max_tokens:
            return FinishReason.LENGTH
        if sequence.num_prompt_tokens + num_completion_tokens >= self._max_model_len:
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
        adapter = sequence.request.adapter
        if adapter in self._leaving and not self._is_wanted(adapter):
            self._leaving.remove(adapter)
            self.residency.withdraw(adapter)

    def _is_wanted(self, digest: str) -> bool:
        return any(sequence.request.adapter == digest for sequence in self._sequences.values())

    def check_integrity(self) -> None:
        """Assert that blocks, sequences, pins and adapters agree with each other."""
        self.scheduler.check_integrity()
        num_lined_up = len(self.scheduler.waiting) + len(self.scheduler.running)
        assert len(self._sequences) == num_lined_up
        wanted = {s.request.adapter for s in self._sequences.values()} - {None}
        assert all(self.residency.is_known(digest) for digest in wanted if digest is not None)
        assert self._leaving <= wanted, "an adapter stays that nobody wants"


class StepFailed(Exception):
    """A step raised; `outputs` ends the sequences that were in it."""

    def __init__(self, outputs: list[TokenOutput]) -> None:
        super().__init__("a step failed")
        self.outputs = outputs
