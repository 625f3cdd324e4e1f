"""Where the time of one call went, drawn as text: the client's stamps joined with the server's own.

The two clocks are never compared. The server says how long its phases took, the client knows between
which of its stamps they must have happened; what is left over there is called network.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from lorry.timing import Timing
    from lorry.types.common import Timings

BAR_CHARS = 40
# timers are late by a millisecond on a loop that nothing disturbs
NOTABLE_LAG_S = 0.005
_NAME_CHARS = 18


class Span(msgspec.Struct, frozen=True):
    """One part of a call on the client's clock (`time.perf_counter_ns`)."""

    name: str
    start_ns: int
    end_ns: int
    is_servers: bool = False

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns


def spans(timing: Timing) -> list[Span]:
    """The parts of a call in order, without gaps; those that nothing is known of are left out.

    Client queue, earlier attempts, connect, network, adapter load, server queue, prefill, decode,
    server finish and client lag. Without an account of the server, its part and the network are one.
    """
    found = list(_before_the_answer(timing))
    answer_from_ns = found[-1].end_ns if found else timing.created_ns
    if timing.attempts and timing.done_ns is not None:
        last = timing.attempts[-1]
        if last.connected_ns is None and last.headers_ns is None:
            found.append(Span("connect", answer_from_ns, timing.done_ns))  # and no further
        else:
            found += _answer(timing, answer_from_ns, timing.done_ns)
    return found


def draw(timing: Timing, *, bar_chars: int = BAR_CHARS) -> str:
    """A line for each span: its name, its time, and a bar where it lay within the call."""
    parts = spans(timing)
    if not parts:
        return "nothing has been sent yet"
    start_ns, end_ns = parts[0].start_ns, parts[-1].end_ns
    lines = [_headline(timing, end_ns - start_ns)]
    for part in parts:
        bar = _bar(part, start_ns, end_ns, bar_chars)
        lines.append(f"{part.name:<{_NAME_CHARS}}{duration(part.duration_ns):>10}  {bar}".rstrip())
    facts = facts_of(timing)
    if facts:
        lines.append("; ".join(facts))
    return "\n".join(lines)


def duration(nanoseconds: float) -> str:
    """A duration with three digits or so, in milliseconds or seconds."""
    milliseconds = nanoseconds / 1e6
    if milliseconds < 999.95:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds / 1e3:.2f} s"


def facts_of(timing: Timing) -> list[str]:
    """What else one has to know to read the times, and how far they can be trusted."""
    facts = []
    if timing.num_tokens is not None:
        each = (
            "" if timing.tpot is None else f", {duration(timing.tpot * 1e9)} each after the first"
        )
        facts.append(f"{timing.num_tokens} tokens{each}")
    if len(timing.attempts) > 1:
        facts.append(f"{len(timing.attempts)} attempts")
    if timing.reused_connection is not None:
        facts.append("connection reused" if timing.reused_connection else "new connection")
    per_event = timing.tokens_per_event
    if per_event is not None and per_event > 1.05:
        facts.append(f"{per_event:.1f} tokens per event, so single gaps say little")
    server = timing.server
    if server is not None and server.cached_tokens:
        facts.append(f"{server.cached_tokens} prompt tokens from the cache")
    if server is not None and server.preemptions:
        facts.append(f"preempted {server.preemptions} times")
    if timing.loop_lag_max is not None and timing.loop_lag_max > NOTABLE_LAG_S:
        facts.append(f"the event loop was {duration(timing.loop_lag_max * 1e9)} late at worst")
    return facts


def _before_the_answer(timing: Timing) -> Iterator[Span]:
    if timing.intended_ns < timing.created_ns:
        yield Span("late start", timing.intended_ns, timing.created_ns)
    if not timing.attempts:
        if timing.done_ns is not None:
            yield Span("client queue", timing.created_ns, timing.done_ns)
        return
    first, last = timing.attempts[0], timing.attempts[-1]
    yield Span("client queue", timing.created_ns, first.sent_ns)
    if first is not last:
        yield Span("earlier attempts", first.sent_ns, last.sent_ns)
    if last.connected_ns is not None:
        yield Span("connect", last.sent_ns, last.connected_ns)


def _answer(timing: Timing, from_ns: int, done_ns: int) -> Iterator[Span]:
    """From the moment when the request could leave to the end of the call."""
    server = timing.server
    if timing.first_token_ns is None or timing.last_token_ns is None:
        # not streamed: nothing is seen until all has been made
        came_ns = done_ns if timing.first_byte_ns is None else timing.first_byte_ns
        if server is None:
            yield Span("network and server", from_ns, came_ns)
        else:
            phases = [*_until_first_token(server), *_after_first_token(server)]
            yield from _network_and(phases, from_ns, came_ns)
        yield Span("client lag", came_ns, done_ns)
        return
    first_ns, last_ns = timing.first_token_ns, timing.last_token_ns
    if server is None:
        yield Span("network and server", from_ns, first_ns)
        yield Span("decode", first_ns, last_ns)
        yield Span("client lag", last_ns, done_ns)
        return
    yield from _network_and(_until_first_token(server), from_ns, first_ns)
    start_ns = first_ns
    for name, phase_ns in _after_first_token(server):
        # what came later than the server had made it was held up on the way or here
        end_ns = min(start_ns + round(phase_ns), done_ns)
        yield Span(name, start_ns, end_ns, is_servers=True)
        start_ns = end_ns
    yield Span("client lag", start_ns, done_ns)


def _until_first_token(server: Timings) -> list[tuple[str, float]]:
    """The server's phases in order, in nanoseconds. Its queue begins before an adapter's load."""
    load_ms = server.adapter_load_ms
    loads = [] if load_ms is None else [("adapter load", load_ms * 1e6)]
    queue_ms = max(0.0, server.queue_ms - (load_ms or 0.0))
    return [*loads, ("server queue", queue_ms * 1e6), ("prefill", server.prefill_ms * 1e6)]


def _after_first_token(server: Timings) -> list[tuple[str, float]]:
    finish_ms = server.finish_ms
    finish = [] if finish_ms is None else [("server finish", finish_ms * 1e6)]
    return [("decode", server.decode_ms * 1e6), *finish]


def _network_and(phases: list[tuple[str, float]], from_ns: int, to_ns: int) -> Iterator[Span]:
    """Lay phases of the server at the end of a stretch of the client's clock."""
    total_ns = sum(phase_ns for _, phase_ns in phases)
    # rounding, or a clock that runs faster, must not draw a phase before the request was sent
    scale = min(1.0, (to_ns - from_ns) / total_ns) if total_ns else 1.0
    start_ns = to_ns - round(total_ns * scale)
    yield Span("network", from_ns, start_ns)
    passed_ns = 0.0
    for name, phase_ns in phases:
        passed_ns += phase_ns * scale
        end_ns = to_ns - round(total_ns * scale - passed_ns)
        yield Span(name, start_ns, end_ns, is_servers=True)
        start_ns = end_ns


def _headline(timing: Timing, total_ns: int) -> str:
    if timing.done_ns is None:
        return f"not ended, {duration(total_ns)} so far"
    if timing.ttft is None:
        return f"{duration(total_ns)} in all"
    return f"{duration(total_ns)} in all, first token {duration(timing.ttft * 1e9)} after sending"


def _bar(part: Span, start_ns: int, end_ns: int, bar_chars: int) -> str:
    scale = bar_chars / max(end_ns - start_ns, 1)
    first = min(int((part.start_ns - start_ns) * scale), bar_chars - 1)
    last = max(first + 1, round((part.end_ns - start_ns) * scale))
    mark = "█" if part.duration_ns * scale >= 0.5 else "▏"
    return " " * first + mark * (last - first)
