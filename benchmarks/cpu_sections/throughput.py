"""Output tokens per second of a closed loop, and the prefill rate, of all contestants in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence

from cpu_sections.contestant import Contestant, LoopResult, Work
from cpu_sections.report import Report, Row, median_ratio

PROMPT_TOKENS, NEW_TOKENS = 128, 64
LONG_PROMPT_TOKENS = 1024
# What the first contestant is to be ahead by, at so many streams.
WANTED_OF_OPENVINO = {1: 1.3, 4: 1.5, 16: 1.5, 32: 1.5}
WANTED_OF_OPENVINO_PREFILL = 1.3


def throughput(
    report: Report,
    contestants: Sequence[Contestant],
    *,
    section: str,
    levels: Sequence[int],
    rounds: int,
    limit_s: float,
    requests_per_stream: int = 4,
    wanted: Mapping[int, float] | None = None,
) -> None:
    """Compare the first contestant with the others at every level, round after round.

    A level runs all contestants one right after the other, so that a ratio is of figures that were
    taken within seconds. No round is begun after `limit_s`.
    """
    results: dict[str, dict[int, list[LoopResult]]] = {
        contestant.name: {level: [] for level in levels} for contestant in contestants
    }
    started_s = time.monotonic()
    for turn in range(rounds):
        if turn > 0 and time.monotonic() - started_s > limit_s:
            report.progress(f"{section}: {turn} of {rounds} rounds fit into {limit_s:.0f} s")
            break
        for level in levels:
            for contestant in contestants:
                num_requests = level * requests_per_stream if level > 1 else 2 * requests_per_stream
                work = Work(
                    concurrency=level,
                    num_requests=num_requests,
                    prompt_tokens=PROMPT_TOKENS,
                    new_tokens=NEW_TOKENS,
                    seed=1000 * turn + level,
                )
                result = contestant.run(work)
                results[contestant.name][level].append(result)
                report.progress(
                    f"{section}: round {turn + 1}, {streams(level)}, {contestant.name}: "
                    f"{result.tokens_per_s:.1f} tokens/s"
                )
    ours, *others = contestants
    for level in levels:
        mine = results[ours.name][level]
        for other in others:
            theirs = results[other.name][level]
            goal = (wanted or {}).get(level)
            report.add(
                Row(
                    section,
                    f"output tokens/s, prompt {PROMPT_TOKENS}, output {NEW_TOKENS}, "
                    f"{streams(level)}, beside {other.name}",
                    median_ratio(_rates(mine), _rates(theirs)),
                    f"{statistics.median(_rates(mine)):.1f}",
                    f"{statistics.median(_rates(theirs)):.1f}",
                    f"at least {goal:.2f}" if goal else "",
                )
            )
        what = f"TTFT p50 and TPOT p50, {streams(level)}" + ("" if others else ", and tokens/s")
        alone = "" if others else f"; {statistics.median(_rates(mine)):.1f} tokens/s"
        report.add(Row(section, what, None, _latencies(mine) + alone))
    report.keep(
        section, {name: {k: _raw(v) for k, v in of.items()} for name, of in results.items()}
    )


def prefill(
    report: Report,
    contestants: Sequence[Contestant],
    *,
    rounds: int,
    limit_s: float,
    num_prompts: int = 4,
    wanted: float | None = None,
) -> None:
    """Tokens per second of one long prompt at a time: its length over the time to the first token."""
    rates: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    started_s = time.monotonic()
    for turn in range(rounds):
        if turn > 0 and time.monotonic() - started_s > limit_s:
            report.progress(f"prefill: {turn} of {rounds} rounds fit into {limit_s:.0f} s")
            break
        for contestant in contestants:
            work = Work(1, num_prompts, LONG_PROMPT_TOKENS, new_tokens=1, seed=7000 + turn)
            rate = LONG_PROMPT_TOKENS / contestant.run(work).median_ttft_s
            rates[contestant.name].append(rate)
            report.progress(f"prefill: round {turn + 1}, {contestant.name}: {rate:.0f} tokens/s")
    ours, *others = contestants
    mine = rates[ours.name]
    what = f"tokens/s of one prompt of {LONG_PROMPT_TOKENS}"
    for other in others:
        theirs = rates[other.name]
        report.add(
            Row(
                "prefill",
                f"{what}, beside {other.name}",
                median_ratio(mine, theirs),
                f"{statistics.median(mine):.0f}",
                f"{statistics.median(theirs):.0f}",
                f"at least {wanted:.2f}" if wanted else "",
            )
        )
    if not others:
        report.add(Row("prefill", what, None, f"{statistics.median(mine):.0f}"))
    report.keep("prefill", rates)


def streams(level: int) -> str:
    return "1 stream" if level == 1 else f"{level} streams"


def _rates(results: Sequence[LoopResult]) -> list[float]:
    return [result.tokens_per_s for result in results]


def _latencies(results: Sequence[LoopResult]) -> str:
    ttft_s = [t for result in results for t in result.ttft_s]
    tpot_s = [t for result in results for t in result.tpot_s]
    return f"{1e3 * statistics.median(ttft_s):.0f} ms, {1e3 * statistics.median(tpot_s):.2f} ms"


def _raw(results: Sequence[LoopResult]) -> list[dict[str, float | None]]:
    return [
        {
            "tokens_per_s": result.tokens_per_s,
            "seconds": result.seconds,
            "ttft_p50_s": result.median_ttft_s,
            "tpot_p50_s": statistics.median(result.tpot_s) if result.tpot_s else None,
            "client_cpu_s": result.client_cpu_s,
        }
        for result in results
    ]
