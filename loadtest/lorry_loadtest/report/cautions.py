"""What a reader of this run must keep in mind, found in its own figures."""

from __future__ import annotations

from collections.abc import Sequence

from lorry_loadtest.headline import format_streams, load_label
from lorry_loadtest.level_run import LevelRun
from lorry_loadtest.result import RunResult
from lorry_loadtest.summary import LevelSummary

_BUSY_CLIENT = 0.7
_CACHED_SHARE = 0.05
_LENGTH_SHARE = 0.98
_EVENTS_PER_TOKEN = 0.9


def cautions(result: RunResult, runs: Sequence[LevelRun]) -> list[str]:
    """Sentences, the ones that matter most first."""
    levels = result.levels
    found = [
        *_busy_client(levels),
        *_fallen_behind(levels),
        *_miscounted(levels),
        *_short_window(levels),
        *_cached(levels),
        *_short_answers(levels, ignore_eos=result.info.ignore_eos),
        *_bundled_tokens(runs),
        *_noted(runs),
    ]
    if all(level.rate_per_s is not None for level in levels):
        return found
    found.append(
        "Users are closed loops: each waits for its answer before it asks again, so an overloaded "
        "server slows its own load down. These latencies say nothing about arrivals that do not wait."
    )
    return found


def _busy_client(levels: Sequence[LevelSummary]) -> list[str]:
    busiest = max(levels, key=lambda level: level.client_cpu_share)
    if busiest.client_cpu_share < _BUSY_CLIENT:
        return []
    return [
        f"The client used {busiest.client_cpu_share:.0%} of a core at {format_streams(busiest.concurrency)}: "
        "latencies there are partly its own."
    ]


def _fallen_behind(levels: Sequence[LevelSummary]) -> list[str]:
    behind = [load_label(level) for level in levels if level.falls_behind]
    if not behind:
        return []
    return [
        f"The server fell behind its arrivals at {', '.join(behind)}: latencies there grow with the "
        "length of the run, and say only that it is too much."
    ]


def _miscounted(levels: Sequence[LevelSummary]) -> list[str]:
    count = sum(level.token_mismatches for level in levels)
    if not count:
        return []
    return [
        f"In {count} finished requests the server's token count differs from what its events carried."
    ]


def _short_window(levels: Sequence[LevelSummary]) -> list[str]:
    few = [str(level.concurrency) for level in levels if level.ok < 20]
    if not few:
        return []
    return [
        f"Fewer than 20 requests finished at {', '.join(few)} streams: not even a median is shown "
        "there. A longer --duration helps."
    ]


def _cached(levels: Sequence[LevelSummary]) -> list[str]:
    shares = [level.cached_prompt_share or 0.0 for level in levels]
    if max(shares) < _CACHED_SHARE:
        return []
    return [
        f"Up to {max(shares):.0%} of the prompt tokens of a level came from the server's prefix "
        "cache, which makes TTFT better than for new prompts. Another --seed sends new ones."
    ]


def _short_answers(levels: Sequence[LevelSummary], *, ignore_eos: bool) -> list[str]:
    shares = [level.length_share for level in levels if level.length_share is not None]
    if not shares or min(shares) >= _LENGTH_SHARE:
        return []
    advice = "" if ignore_eos else " With --ignore-eos every answer has the length asked for."
    return [
        f"Answers were shorter than asked for: {min(shares):.0%} of max_tokens at one level.{advice}"
    ]


def _noted(runs: Sequence[LevelRun]) -> list[str]:
    """What was noticed while the levels ran, each once."""
    notes = dict.fromkeys(note for run in runs for note in run.facts.observations.notes)
    return [f"{note[0].upper()}{note[1:].rstrip('.')}." for note in notes if note]


def _bundled_tokens(runs: Sequence[LevelRun]) -> list[str]:
    records = [record for run in runs for record in run.records if record.tokens_stated]
    num_tokens = sum(sum(record.event_tokens) for record in records)
    num_events = sum(len(record.event_ns) for record in records)
    if not num_tokens or num_events / num_tokens >= _EVENTS_PER_TOKEN:
        return []
    return [
        f"The server sent {num_tokens / num_events:.1f} tokens per event: a chunk gap is not the "
        "time of one token. TPOT is right all the same."
    ]
