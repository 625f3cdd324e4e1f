"""`BatchRun`: a batch to iterate over, to await, or to use as a context."""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar, cast

import msgspec

from lorry.batch.journal import Journal, item_key
from lorry.batch.outcome import Outcome, as_record
from lorry.batch.progress import Progress, ProgressDisplay, open_display
from lorry.batch.request import Items, Request
from lorry.batch.settings import BatchSettings
from lorry.batch.source import ItemSource
from lorry.batch.stats import BatchStats, batch_stats
from lorry.errors import ClientError
from lorry.generation import Generation

_Result = TypeVar("_Result", bound=Generation | ClientError, covariant=True)


class GenerateItem(Protocol):
    """One generation. `intended_ns` is when it was due, None for now."""

    async def __call__(
        self, request: Request, options: Mapping[str, Any], /, *, intended_ns: int | None
    ) -> Generation: ...


@dataclass(frozen=True, slots=True)
class _Due:
    """An item whose turn has come."""

    index: int
    request: Request
    options: Mapping[str, Any]
    key: str | None


class BatchRun(Generic[_Result]):
    """Many generations. Nothing is sent before the first iteration or `await`.

        results = await client.map(prompts, max_tokens=20)          # all, as a list

        async with client.map(prompts, concurrency=32) as run:      # as they come
            async for result in run:
                ...
        print(run.stats())

    The input is read as it is needed: a closed loop never holds more than `concurrency` + `window`
    items that nobody has taken. Awaiting takes results as they finish, so only `concurrency`
    matters there. What has been taken stays in `results`.

    Leaving the context cancels what is in flight and returns when that is over. Iterated without a
    context and left early, a run goes on until its window is full; `aclose` ends it.
    """

    def __init__(self, items: Items, *, generate: GenerateItem, settings: BatchSettings) -> None:
        self._source = ItemSource(items)
        self._generate = generate
        self._settings = settings
        self._outcomes: dict[int, Outcome] = {}  # in the order of completion
        self._ready: deque[Outcome] = deque()
        self._held: dict[int, Outcome] = {}  # finished before one that comes earlier
        self._next_index = 0  # of the outcome that comes next in the order of the input
        self._num_started = 0
        self._num_taken = 0
        self._num_in_flight = 0
        self._max_in_flight = 0
        self._num_tokens = 0
        self._num_failed = 0
        self._num_from_journal = 0
        self._began_ns = 0
        self._ended_ns: int | None = None
        self._is_cancelled = False
        self._takes_all = False
        self._runner: asyncio.Task[None] | None = None
        self._journal: Journal | None = None
        self._display: ProgressDisplay | None = None
        self._room = asyncio.Event()
        self._news = asyncio.Event()

    def __repr__(self) -> str:
        state = "not begun" if self._runner is None else str(self._progress())
        return f"<BatchRun: {state}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Result:
        """The next result; raises what ended the run early, behind the results before it."""
        runner = self._start()
        while not self._ready:
            if runner is None or runner.done():
                await self._until_end()
                if not self._ready:
                    raise StopAsyncIteration
                break
            self._news.clear()
            await self._news.wait()
        outcome = self._ready.popleft()
        self._took_one()
        return cast(_Result, outcome.result)

    def __await__(self) -> Generator[Any, None, list[_Result]]:
        return self._all().__await__()

    @property
    def results(self) -> list[_Result]:
        """What has finished, in the order that was asked for; errors only if they are results."""
        outcomes = self._finished()
        if self._settings.on_error != "return":
            outcomes = [o for o in outcomes if not isinstance(o.result, ClientError)]
        return [cast(_Result, outcome.result) for outcome in outcomes]

    @property
    def errors(self) -> dict[int, ClientError]:
        """The failures, by position in the input."""
        return {
            outcome.index: outcome.result
            for outcome in self._finished()
            if isinstance(outcome.result, ClientError)
        }

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` or the end of the context came before the end of the input."""
        return self._is_cancelled

    def stats(self) -> BatchStats:
        """Throughput and latencies of what has finished, at any moment."""
        return batch_stats(
            self._finished(), elapsed_s=self._elapsed_s(), max_in_flight=self._max_in_flight
        )

    def to_records(self) -> list[dict[str, Any]]:
        """One flat row per finished item, for `pandas.DataFrame` and the like."""
        return [as_record(outcome) for outcome in self._finished()]

    def to_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Write the records, one a line; a tag that JSON does not know is written by its `str`."""
        lines = [msgspec.json.encode(record, enc_hook=str) + b"\n" for record in self.to_records()]
        Path(path).write_bytes(b"".join(lines))

    def cancel(self) -> None:
        """End the run now. Iteration and `await` then give what has finished, without an error."""
        if self._runner is None or not self._runner.done():
            self._is_cancelled = True
        if self._runner is not None:
            self._runner.cancel()

    async def aclose(self) -> None:
        """End the run; returns when nothing of it is in flight any more, also when cancelled."""
        self.cancel()
        if self._runner is None:
            return
        interruption: asyncio.CancelledError | None = None
        while not self._runner.done():
            try:
                await asyncio.wait([self._runner])
            except asyncio.CancelledError as error:
                interruption = error
        if not self._runner.cancelled():
            self._runner.exception()  # whoever wanted it has taken it by now
        if interruption is not None:
            raise interruption

    async def _all(self) -> list[_Result]:
        self._takes_all = True
        self._room.set()
        self._start()
        await self._until_end()
        return self.results

    def _start(self) -> asyncio.Task[None] | None:
        """The task that runs the batch; None if it was cancelled before it began."""
        if self._runner is None and not self._is_cancelled:
            self._began_ns = time.perf_counter_ns()
            if self._settings.journal is not None:
                self._journal = Journal(self._settings.journal)
            self._display = open_display(self._settings.progress)
            self._runner = asyncio.create_task(self._run())
        return self._runner

    async def _until_end(self) -> None:
        if self._runner is None:
            return
        try:
            await self._runner
        except asyncio.CancelledError:
            waiter = asyncio.current_task()
            if not self._is_cancelled or (waiter is not None and waiter.cancelling()):
                raise

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                await self._start_items(group)
        except BaseExceptionGroup as failures:
            # the first failure cancelled the others; a group of one would only be in the way
            raise failures.exceptions[0] from None
        finally:
            self._ended_ns = time.perf_counter_ns()
            if self._journal is not None:
                self._journal.close()
            if self._display is not None:
                self._display.close(self._progress())
            self._news.set()

    async def _start_items(self, group: asyncio.TaskGroup) -> None:
        schedule = None if self._settings.arrivals is None else self._settings.arrivals.offsets_s()
        offset_s = _next_offset(schedule)
        while schedule is None or offset_s is not None:
            await self._until_room()
            item = await self._source.next()
            if item is None:
                return
            due = self._due(*item)
            self._num_started += 1
            if self._found_in_journal(due):
                await asyncio.sleep(0)  # a long journal must not hold the loop
                continue
            intended_ns = None
            if offset_s is not None:
                intended_ns = self._began_ns + round(offset_s * 1e9)
                await _until(intended_ns)
                offset_s = _next_offset(schedule)
            self._num_in_flight += 1
            self._max_in_flight = max(self._max_in_flight, self._num_in_flight)
            group.create_task(self._run_item(due, intended_ns))

    def _due(self, index: int, request: Request) -> _Due:
        options = {**self._settings.shared, **request.options}
        key = None if self._journal is None else item_key(index, request, options)
        return _Due(index, request, options, key)

    def _found_in_journal(self, due: _Due) -> bool:
        found = None
        if self._journal is not None and due.key is not None:
            found = self._journal.find(due.key)
        if found is None:
            return False
        tag = due.options.get("tag")
        adapter = due.options.get("adapter") or None
        self._num_from_journal += 1
        found = msgspec.structs.replace(found, tag=tag)
        self._finish(Outcome(due.index, found, adapter, tag, from_journal=True))
        return True

    async def _run_item(self, due: _Due, intended_ns: int | None) -> None:
        result: Generation | ClientError
        try:
            result = await self._generate(due.request, due.options, intended_ns=intended_ns)
            self._num_tokens += result.usage.completion_tokens or 0
        except ClientError as error:
            result = error
            self._num_failed += 1
        finally:  # also when it is cancelled
            self._num_in_flight -= 1
        if self._journal is not None and due.key is not None:
            self._journal.add(due.key, due.index, result)
        adapter = due.options.get("adapter") or None
        self._finish(Outcome(due.index, result, adapter, due.options.get("tag")))
        if isinstance(result, ClientError) and self._settings.on_error == "raise":
            raise result

    def _finish(self, outcome: Outcome) -> None:
        self._outcomes[outcome.index] = outcome
        if self._settings.order == "completion":
            self._hand_out(outcome)
        else:
            self._held[outcome.index] = outcome
            while (following := self._held.pop(self._next_index, None)) is not None:
                self._next_index += 1
                self._hand_out(following)
        if self._display is not None:
            self._display.show(self._progress())
        self._room.set()
        self._news.set()

    def _hand_out(self, outcome: Outcome) -> None:
        if not isinstance(outcome.result, ClientError) or self._settings.on_error == "return":
            self._ready.append(outcome)
        elif self._settings.on_error == "skip":
            self._took_one()

    def _took_one(self) -> None:
        self._num_taken += 1
        self._room.set()

    async def _until_room(self) -> None:
        while not self._has_room():
            self._room.clear()
            await self._room.wait()

    def _has_room(self) -> bool:
        concurrency = self._settings.concurrency
        if concurrency is None:
            return True
        if self._num_in_flight >= concurrency:
            return False
        if self._takes_all or self._settings.arrivals is not None:
            return True
        return self._num_started - self._num_taken < concurrency + self._settings.window

    def _finished(self) -> list[Outcome]:
        if self._settings.order == "completion":
            return list(self._outcomes.values())
        return [self._outcomes[index] for index in sorted(self._outcomes)]

    def _progress(self) -> Progress:
        return Progress(
            num_done=len(self._outcomes),
            total=self._source.total,
            num_failed=self._num_failed,
            num_from_journal=self._num_from_journal,
            num_in_flight=self._num_in_flight,
            num_tokens=self._num_tokens,
            elapsed_s=self._elapsed_s(),
        )

    def _elapsed_s(self) -> float:
        if self._runner is None:
            return 0.0
        return ((self._ended_ns or time.perf_counter_ns()) - self._began_ns) / 1e9


def _next_offset(schedule: Iterator[float] | None) -> float | None:
    return None if schedule is None else next(schedule, None)


async def _until(due_ns: int) -> None:
    """Sleep until a stamp of `perf_counter_ns`; lets others run also when it has passed."""
    while True:
        remaining_s = (due_ns - time.perf_counter_ns()) / 1e9
        await asyncio.sleep(max(0.0, remaining_s))
        if time.perf_counter_ns() >= due_ns:
            return
