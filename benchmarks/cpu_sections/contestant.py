"""What is measured: a server over HTTP, or OpenVINO GenAI in a process of its own.

Both take the same `Work` and answer with the same `LoopResult`, so that a section can run any of
them in turn.
"""

from __future__ import annotations

import asyncio
import json
import random
import select
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cpu_sections.process_memory import listener_pid
from cpu_sections.streamed_completion import CompletionConnection, StreamTiming

OPENVINO_WORKER = Path(__file__).with_name("openvino_worker.py")
# Below are control tokens in most vocabularies; 40,000 is below the end of those in use here.
FIRST_TOKEN_ID, END_TOKEN_ID = 100, 40_000
MAX_LOOP_S = 600.0


class ContestantError(RuntimeError):
    """A contestant cannot be measured; the message says why and what would help."""


@dataclass(frozen=True, slots=True)
class Work:
    """A closed loop: `concurrency` requests in flight until `num_requests` are done.

    Every prompt is new and random, so prefix caches do not help. `adapters` are used in turn,
    None for the base model.
    """

    concurrency: int
    num_requests: int
    prompt_tokens: int
    new_tokens: int
    seed: int
    adapters: tuple[str | None, ...] = (None,)


@dataclass(frozen=True, slots=True)
class LoopResult:
    seconds: float
    num_tokens: int
    ttft_s: tuple[float, ...]
    tpot_s: tuple[float, ...] = ()
    client_cpu_s: float | None = None

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / self.seconds

    @property
    def median_ttft_s(self) -> float:
        return statistics.median(self.ttft_s)


class Contestant(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def pid(self) -> int | None: ...

    def run(self, work: Work) -> LoopResult: ...


class HttpContestant:
    """A server with OpenAI's /v1/completions that takes token ids as the prompt."""

    def __init__(self, name: str, base_url: str) -> None:
        self.name = name
        self.base_url = base_url.rstrip("/")
        try:
            with urllib.request.urlopen(f"{self.base_url}/v1/models", timeout=30) as answer:
                models = json.load(answer)["data"]
        except (urllib.error.URLError, ValueError, KeyError, TimeoutError) as exc:
            raise ContestantError(
                f"{name}: {self.base_url}/v1/models gives no list: {exc}"
            ) from exc
        self._model = models[0]["id"]
        self.pid = listener_pid(self.base_url)

    def run(self, work: Work) -> LoopResult:
        return asyncio.run(asyncio.wait_for(self._closed_loop(work), MAX_LOOP_S))

    async def _closed_loop(self, work: Work) -> LoopResult:
        bodies = iter(self._bodies(work))
        timings: list[StreamTiming] = []

        async def stream() -> None:
            connection = CompletionConnection(self.base_url)
            try:
                for body in bodies:
                    timings.append(await connection.complete(body))
            finally:
                connection.close()

        started_s, cpu_s = time.perf_counter(), time.process_time()
        await asyncio.gather(*(stream() for _ in range(work.concurrency)))
        seconds = time.perf_counter() - started_s
        wrong = [t.num_tokens for t in timings if t.num_tokens != work.new_tokens]
        if wrong:
            raise ContestantError(
                f"{self.name}: {len(wrong)} of {len(timings)} answers have not {work.new_tokens} "
                f"tokens but {sorted(set(wrong))[:5]}; the server must honour ignore_eos"
            )
        return LoopResult(
            seconds=seconds,
            num_tokens=sum(t.num_tokens for t in timings),
            ttft_s=tuple(t.ttft_s for t in timings),
            tpot_s=tuple(t.tpot_s for t in timings if t.tpot_s is not None),
            client_cpu_s=time.process_time() - cpu_s,
        )

    def _bodies(self, work: Work) -> list[dict[str, Any]]:
        rng = random.Random(work.seed)
        return [
            {
                "model": work.adapters[index % len(work.adapters)] or self._model,
                "prompt": [
                    rng.randrange(FIRST_TOKEN_ID, END_TOKEN_ID) for _ in range(work.prompt_tokens)
                ],
                "max_tokens": work.new_tokens,
                "min_tokens": work.new_tokens,
                "ignore_eos": True,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            for index in range(work.num_requests)
        ]


class OpenVinoContestant:
    """OpenVINO GenAI's continuous batching, in process: no HTTP and no client to pay for."""

    def __init__(self, name: str, process: subprocess.Popen[str], start: dict[str, Any]) -> None:
        self.name = name
        self.version = str(start["version"])
        self.pid = process.pid
        self._process = process

    def run(self, work: Work) -> LoopResult:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        message = {
            "concurrency": work.concurrency,
            "num_requests": work.num_requests,
            "prompt_tokens": work.prompt_tokens,
            "new_tokens": work.new_tokens,
            "seed": work.seed,
        }
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], MAX_LOOP_S)[0]:
            raise ContestantError(f"{self.name}: no answer within {MAX_LOOP_S:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise ContestantError(f"{self.name}: its process ended, see its messages above")
        result = json.loads(line)
        return LoopResult(
            seconds=result["seconds"],
            num_tokens=work.num_requests * work.new_tokens,
            ttft_s=tuple(result["ttft_s"]),
        )


@contextmanager
def openvino(name: str, python: str, model: Path) -> Iterator[OpenVinoContestant]:
    """Start the worker under `python` with `model` (a GGUF file or an exported folder)."""
    command = [python, str(OPENVINO_WORKER), str(model)]
    command += [str(FIRST_TOKEN_ID), str(END_TOKEN_ID)]
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    except OSError as exc:
        raise ContestantError(f"{name}: cannot run {python}: {exc}. {OPENVINO_HINT}") from exc
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise ContestantError(f"{name}: its process ended at start. {OPENVINO_HINT}")
        yield OpenVinoContestant(name, process, json.loads(line))
    finally:
        process.stdin.close()  # the worker ends when its input does
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


OPENVINO_HINT = (
    "Make it with: python -m venv DIR; DIR/bin/pip install openvino-genai; and give "
    "--openvino-python DIR/bin/python"
)


def warm_up(contestants: Sequence[Contestant], *, concurrency: int) -> None:
    """Let every contestant compile, allocate and fault in what its first requests need."""
    for contestant in contestants:
        contestant.run(Work(concurrency, concurrency, prompt_tokens=128, new_tokens=4, seed=1))
