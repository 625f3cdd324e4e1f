"""`OpenAICall`: one checked request of an OpenAI route, and the running sums of its answer."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from lorry.types.chat import ChatRequest
from lorry.types.common import Timings, Usage
from lorry.types.completions import CompletionRequest
from lorry_server.adapters.lease import AdapterLease
from lorry_server.engine.outputs import SequenceTimings
from lorry_server.engine.request import Request as EngineRequest
from lorry_server.errors import RequestError
from lorry_server.http.answer_timings import answer_timings, usage
from lorry_server.http.generation import Delta, Job
from lorry_server.http.openai_sampling import sampling_params, sequence_seeds, stop_strings
from lorry_server.http.prompts import Prompt, max_new_tokens
from lorry_server.http.request_record import RequestRecord
from lorry_server.http.serving import Serving


@dataclass(slots=True)
class OpenAICall:
    """Sequence i of the job is choice `i % num_sequences` of prompt `i // num_sequences`."""

    answer_id: str
    created: int
    model: str
    prompts: list[Prompt]
    num_sequences: int  # for each prompt
    job: Job
    record: RequestRecord
    _num_tokens: int = field(default=0, init=False)
    _timings: dict[int, SequenceTimings] = field(default_factory=dict, init=False)

    def note(self, delta: Delta) -> None:
        """Count a delta into usage, timings and the log."""
        self._num_tokens += len(delta.tokens)
        self.record.num_completion_tokens = self._num_tokens
        if delta.finish is not None:
            self.record.finish_reason = delta.finish.wire_reason
            if delta.finish.timings is not None:
                self._timings[delta.index] = delta.finish.timings
                self.record.timings = self.timings()

    def timings(self) -> Timings | None:
        """Return those of all sequences that have ended so far."""
        return answer_timings(
            list(self._timings.values()),
            record=self.record,
            adapter=self.job.adapter,
        )

    def usage(self) -> Usage:
        """Return the counts so far: every prompt once, the tokens of every sequence."""
        # The later choices of a prompt find it in the cache that the first one filled.
        first_choices = range(0, len(self.job.requests), self.num_sequences)
        cached = [self._timings[i].cached_tokens for i in first_choices if i in self._timings]
        return usage(
            prompt_tokens=sum(len(prompt.token_ids) for prompt in self.prompts),
            completion_tokens=self._num_tokens,
            cached_tokens=sum(cached) if cached else None,
        )


def open_call(
    request: CompletionRequest | ChatRequest,
    prompts: Sequence[Prompt],
    *,
    lease: AdapterLease | None,
    kind: str,
    num_sequences: int,
    max_tokens: int | None,
    default_max_tokens: int | None,
    num_logprobs: int | None,
    num_prompt_logprobs: int | None,
    record: RequestRecord,
    serving: Serving,
) -> OpenAICall:
    """Check what the two OpenAI routes have in common and make the engine's requests.

    `lease` goes into the call; if this raises it is still its owner's. `kind` is the prefix of the answer's id. Without `max_tokens` a sequence may have
    `default_max_tokens`, or the rest of the context if that is None.
    """
    check_num_sequences(len(prompts), num_sequences, serving=serving)
    # Who names no limit gets as much as all sequences may have together, and no refusal.
    share = serving.settings.max_completion_tokens_per_request // (len(prompts) * num_sequences)
    default = share if default_max_tokens is None else min(default_max_tokens, share)
    limits = [
        max_new_tokens(max_tokens, default=default, prompt=prompt, serving=serving)
        for prompt in prompts
    ]
    check_num_tokens(sum(limits) * num_sequences, serving=serving)
    answer_id = f"{kind}-{secrets.token_hex(16)}"
    seeds = sequence_seeds(request.seed, num_sequences=num_sequences)
    requests = [
        EngineRequest(
            request_id=f"{answer_id}-{place * num_sequences + choice}",
            prompt_token_ids=prompt.token_ids,
            sampling=sampling_params(
                request,
                max_tokens=limit,
                num_logprobs=num_logprobs,
                num_prompt_logprobs=num_prompt_logprobs,
                seed=seed,
                logits_width=serving.engine.info.logits_width,
            ),
            adapter=lease.digest if lease else None,
            arrival_s=record.arrival_s,
            deadline_s=record.engine_deadline_s,
        )
        for place, (prompt, limit) in enumerate(zip(prompts, limits, strict=True))
        for choice, seed in enumerate(seeds)
    ]
    job = Job(
        requests=tuple(requests),
        stop=stop_strings(request.stop),
        include_stop=bool(request.include_stop_str_in_output),
        lease=lease,
    )
    record.model = serving.settings.served_model_name
    record.adapter = job.adapter
    record.is_streamed = bool(request.stream)
    record.num_sequences = len(requests)
    record.num_prompt_tokens = sum(len(prompt.token_ids) for prompt in prompts)
    return OpenAICall(
        answer_id=answer_id,
        created=int(time.time()),
        model=job.adapter or serving.settings.served_model_name,
        prompts=list(prompts),
        num_sequences=num_sequences,
        job=job,
        record=record,
    )


def check_num_sequences(num_prompts: int, num_sequences: int, *, serving: Serving) -> None:
    """Refuse a request that could never be admitted, before anything is made for it."""
    info = serving.engine.info
    most = min(
        serving.settings.max_sequences_per_request, info.max_num_seqs + info.max_queued_requests
    )
    if num_prompts * num_sequences > most:
        raise RequestError(
            f"a request may have at most {most} sequences. Given: {num_prompts} prompts with "
            f"{num_sequences} choices each",
            param="n" if num_prompts == 1 else "prompt",
            code="too_many_sequences",
        )


def check_num_tokens(num_tokens: int, *, serving: Serving) -> None:
    most = serving.settings.max_completion_tokens_per_request
    if num_tokens > most:
        raise RequestError(
            f"a request may ask for at most {most} tokens over all its sequences. "
            f"Given: {num_tokens}",
            param="max_tokens",
            code="too_many_tokens",
        )
