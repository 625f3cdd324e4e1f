"""The definitions at the foot of every report, without which its figures say nothing."""

from __future__ import annotations

from html import escape

_DEFINITIONS = {
    "TTFT": "time to first token: from the moment the user was ready to send until the bytes of the "
    "first event with a token arrived",
    "TPOT": "time per output token after the first event: (last - first arrival) / (tokens - tokens "
    "of the first event); undefined, never 0, for answers of one event",
    "End to end": "from the moment the user was ready until the last token arrived",
    "Chunk gap": "time between two events of one answer, pooled over all answers; shows stalls that "
    "a mean per request hides",
    "Output tokens/s": "tokens whose bytes arrived inside the measuring window, divided by its "
    "length; warm-up and drain are outside",
    "Requests": "finished requests that became ready inside the window, followed to their end even "
    "after it; latencies are theirs",
    "p50, p95, p99": "exact percentiles of raw values with linear interpolation (type 7); n/a unless "
    "ten values lie beyond: 20 requests for p50, 200 for p95, 1,000 for p99",
    "Arrival": "when the read of the socket returned, before anything was parsed",
    "Tokens": "as the server counts them; each event's share from the token ids in it",
}


def definitions() -> str:
    """A definition list."""
    rows = (
        f"<dt>{escape(term)}</dt><dd>{escape(what)}</dd>" for term, what in _DEFINITIONS.items()
    )
    return f"<dl>{''.join(rows)}</dl>"
