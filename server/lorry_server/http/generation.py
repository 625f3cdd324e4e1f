"""`Generation`: the sequences of one request, from submission to the last word of each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Self

import msgspec

from lorry_server.adapters.lease import AdapterLease
from lorry_server.engine.client import RequestStream
from lorry_server.engine.outputs import (
    FinishReason,
    SequenceTimings,
    TokenLogprobs,
    TokenOutput,
)
from lorry_server.engine.request import Request
from lorry_server.errors import CapacityError, DeadlineExceededError, LorryServerError
from lorry_server.http.request_record import RequestRecord
from lorry_server.http.serving import Serving
from lorry_server.metrics import SequenceMetrics
from lorry_server.text.detokenizer import IncrementalDetokenizer


class GenerationError(LorryServerError):
    """A sequence ended before its answer was complete.

    `was_ended` is True when the server ended it (a shutdown that could not wait longer) and
    False when computing it failed.
    """

    def __init__(self, message: str, *, was_ended: bool) -> None:
        super().__init__(message)
        self.was_ended = was_ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to generate: one request a sequence, all with the same stop strings and adapter.

    Whoever starts the job takes over its lease.
    """

    requests: tuple[Request, ...]
    stop: tuple[str, ...] = ()
    include_stop: bool = False
    lease: AdapterLease | None = None

    @property
    def adapter(self) -> str | None:
        """What the request called its adapter; None for the base model."""
        return None if self.lease is None else self.lease.asked


class GeneratedToken(msgspec.Struct, frozen=True):
    """One token and the text that its coming made certain: often its own, now and then none."""

    id: int
    text: str
    logprobs: TokenLogprobs | None


@dataclass(frozen=True, slots=True)
class Finish:
    """How a sequence ended. `stop` is the stop string that ended it, if one did."""

    reason: FinishReason
    stop: str | None
    stop_token_id: int | None
    timings: SequenceTimings | None

    @property
    def wire_reason(self) -> str:
        """OpenAI's word."""
        return "length" if self.stop is None and self.reason is FinishReason.LENGTH else "stop"

    @property
    def stop_reason(self) -> str | int | None:
        """The stop string or stop token id that ended the sequence; None for its natural end."""
        return self.stop if self.stop is not None else self.stop_token_id


class Delta(msgspec.Struct, frozen=True):
    """What is new in one sequence; `index` is its place in the job.

    `is_stopped` says that a stop string has ended the text; no tokens follow, at most `finish`.
    """

    index: int
    tokens: tuple[GeneratedToken, ...]
    text: str
    is_stopped: bool = False
    prompt_logprobs: tuple[TokenLogprobs, ...] | None = None
    finish: Finish | None = None


class Generation:
    """Async iterator over what is new in a job: the deltas that came since it was last asked.

    It is a context manager: leaving it ends whatever is still being computed, and releases the
    lease of the adapter. Raises `GenerationError` as soon as one of the sequences fails, and
    `DeadlineExceededError` when the request's time is over.
    """

    def __init__(
        self, readers: Sequence[SequenceReader], *, lease: AdapterLease | None = None
    ) -> None:
        self._lease = lease
        self._open = {reader.index: reader for reader in readers}
        self._arrived: dict[int, SequenceReader] = {}  # in order of arrival
        self._arrival: asyncio.Future[None] | None = None
        for reader in readers:
            reader.stream.listen(partial(self._notice, reader))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        abandoned, self._open = self._open, {}
        for reader in abandoned.values():
            reader.metrics.abandoned()
            reader.stream.abort()
        if self._lease is not None:
            self._lease.release()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Delta]:
        if not self._open:
            raise StopAsyncIteration
        if not self._arrived:
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        arrived, self._arrived = self._arrived, {}
        return [self._read(reader) for reader in arrived.values()]

    def _notice(self, reader: SequenceReader, output: TokenOutput) -> None:
        if reader.index not in self._open:
            return
        reader.metrics.received(len(output.token_ids))
        if reader.reads_at_end and output.finish_reason is None:
            return
        self._arrived[reader.index] = reader
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def _read(self, reader: SequenceReader) -> Delta:
        output = reader.stream.take()
        if output.finish_reason is not None:
            del self._open[reader.index]
        return reader.push(output)


@dataclass(slots=True)
class SequenceReader:
    """Turns the outputs of one sequence into deltas.

    A stop string ends the text at once and aborts the sequence; the delta with `finish` comes
    when the engine has let go of it.
    """

    index: int
    stream: RequestStream
    detokenizer: IncrementalDetokenizer
    metrics: SequenceMetrics
    include_stop: bool
    reads_at_end: bool  # nobody wants what comes before
    _has_stopped: bool = field(default=False, init=False)

    def push(self, output: TokenOutput) -> Delta:
        tokens = () if self._has_stopped else self._read_tokens(output)
        finish = None
        if not self._has_stopped and self.detokenizer.stopped is not None:
            self._has_stopped = True
            if output.finish_reason is None:
                self.stream.abort()
        rest = ""
        if output.finish_reason is not None:
            rest = self.detokenizer.finish()
            finish = self._finish(output, output.finish_reason)
        if rest and tokens:
            # No later token will show the text that was held back.
            last = tokens[-1]
            tokens = (*tokens[:-1], GeneratedToken(last.id, last.text + rest, last.logprobs))
            rest = ""
        text = "".join([token.text for token in tokens]) + rest
        return Delta(
            index=self.index,
            tokens=tokens,
            text=text,
            is_stopped=self._has_stopped,
            prompt_logprobs=output.prompt_logprobs,
            finish=finish,
        )

    def _read_tokens(self, output: TokenOutput) -> tuple[GeneratedToken, ...]:
        ended_by_token = output.finish_reason in (FinishReason.EOS, FinishReason.STOP_TOKEN)
        num_shown = len(output.token_ids)
        if ended_by_token and not self.include_stop:
            num_shown -= 1
        tokens = []
        for place, token_id in enumerate(output.token_ids):
            text = self.detokenizer.push(token_id) if place < num_shown else ""
            logprobs = None if output.logprobs is None else output.logprobs[place]
            tokens.append(GeneratedToken(token_id, text, logprobs))
            if self.detokenizer.stopped is not None:
                break
        return tuple(tokens)

    def _finish(self, output: TokenOutput, reason: FinishReason) -> Finish:
        stop = self.detokenizer.stopped
        if stop is None and reason is FinishReason.DEADLINE:
            has_run = output.timings is not None and output.timings.steps > 0
            phase = "running" if has_run else "waiting"
            self.metrics.past_deadline(phase)
            raise DeadlineExceededError(phase)
        if stop is None and reason in (FinishReason.ERROR, FinishReason.ABORT):
            was_ended = reason is FinishReason.ABORT
            self.metrics.finished(reason.value, None)
            raise GenerationError(
                "the server ended this request before its answer was complete"
                if was_ended
                else output.error or "generation failed",
                was_ended=was_ended,
            )
        finish = Finish(
            reason=FinishReason.ABORT if stop is not None else reason,
            stop=stop,
            stop_token_id=output.stop_token_id if stop is None else None,
            timings=output.timings,
        )
        self.metrics.finished(finish.wire_reason, output.timings)
        return finish


def start_generation(
    job: Job, *, is_streamed: bool, record: RequestRecord, serving: Serving
) -> Generation:
    """Submit all sequences of `job`, or none, and note in `record` when that was.

    Without `is_streamed` a sequence is read when it has ended, or token by token where a stop
    string may end it. Raises `CapacityError` or `EngineDeadError`. Enter the result, or its sequences run on.
    """
    record.submitted_s = time.perf_counter()
    if job.lease is not None:
        record.adapter_load_ms = job.lease.waited_ms or 0.0
    try:
        streams = serving.engine.submit(job.requests)
    except CapacityError as exc:
        serving.metrics.rejected(exc)
        raise
    if record.deadline is not None:
        for stream in streams:
            record.deadline.when_lifted(stream.lift_deadline)
    return Generation(
        [
            SequenceReader(
                index=index,
                stream=stream,
                detokenizer=IncrementalDetokenizer(
                    serving.tokenizer, stop=job.stop, include_stop=job.include_stop
                ),
                metrics=serving.metrics.sequence(request, lease=job.lease),
                include_stop=job.include_stop,
                reads_at_end=not is_streamed and not job.stop,
            )
            for index, (request, stream) in enumerate(zip(job.requests, streams, strict=True))
        ],
        lease=job.lease,
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """One finished sequence."""

    index: int
    text: str
    tokens: tuple[GeneratedToken, ...]
    prompt_logprobs: tuple[TokenLogprobs, ...] | None
    finish: Finish

    @property
    def mean_logprob(self) -> float:
        """The mean over the tokens; needs logprobs to have been asked for."""
        logprobs = [t.logprobs.logprob for t in self.tokens if t.logprobs is not None]
        known = [logprob for logprob in logprobs if logprob is not None]
        return sum(known) / len(known) if known else 0.0


async def collect_answers(generation: Generation) -> list[Answer]:
    """Read an entered generation to its end; return its answers in the order of the job."""
    deltas: dict[int, list[Delta]] = {}
    async for fresh in generation:
        for delta in fresh:
            deltas.setdefault(delta.index, []).append(delta)
    return [join_deltas(index, deltas[index]) for index in sorted(deltas)]


def join_deltas(index: int, deltas: Sequence[Delta]) -> Answer:
    finish = deltas[-1].finish
    assert finish is not None, "a generation that ends without an error has finished sequences"
    prompt_logprobs = [delta.prompt_logprobs for delta in deltas if delta.prompt_logprobs]
    return Answer(
        index=index,
        text="".join(delta.text for delta in deltas),
        tokens=tuple(token for delta in deltas for token in delta.tokens),
        prompt_logprobs=prompt_logprobs[0] if prompt_logprobs else None,
        finish=finish,
    )
