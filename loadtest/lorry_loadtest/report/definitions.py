"""The definitions at the foot of every report, without which its figures say nothing."""

from __future__ import annotations

from html import escape

_DEFINITIONS = {
    "TTFT": "time to first token: from the place in the schedule (in a closed loop: from the moment "
    "the user was ready to send) until the bytes of the first event with a token arrived. From the "
    "send it is the service's TTFT, which most tools print",
    "TPOT": "time per output token after the first event: (last - first arrival) / (tokens - tokens "
    "of the first event); undefined, never 0, for answers of one event",
    "End to end": "from the schedule until the last token arrived",
    "Chunk gap": "time between two events of one answer, pooled over all answers; shows stalls that "
    "a mean per request hides",
    "Stall": "a gap above five times the run's median gap and above 250 ms",
    "Window": "from where TTFT and TPOT had settled (MSER-5), at the earliest after the warm-up, to the "
    "last scheduled arrival",
    "Output tokens/s": "tokens whose bytes arrived inside the window, divided by its length; warm-up "
    "and drain are outside",
    "Requests": "those scheduled inside the window, followed to their end even after it; latencies "
    "are of the finished ones; those that a limit of time, the end of the drain or an impatient "
    "user ended count as censored: TTFT's and end to end's percentiles are then Kaplan and Meier's",
    "Requests/s": "of the requests scheduled inside the window those that finished, over its length; "
    "where the server fell behind its arrivals, those that finished inside the window, since what the "
    "drain finishes is no throughput",
    "Goodput": "those of the requests/s that met every objective by themselves, over the same window; "
    "failed, abandoned and cut off ones stay among the attempted",
    "p50, p95, p99": "exact percentiles of raw values with linear interpolation (type 7); n/a unless "
    "ten values lie beyond: 20 requests for p50, 200 for p95, 1,000 for p99",
    "Intervals": "95 %: of percentiles from order statistics, which assume independent requests; of "
    "shares Wilson's; of rates from the means of twenty batches",
    "Arrival": "when the kernel received the bytes, where it stamps them; else when the read of the "
    "socket returned, before anything was parsed",
    "Tokens": "as the server counts them; each event's share from the token ids in it",
    "Unexplained": "end to end less the sum of a waterfall's parts; the network's part is the least "
    "that any request of the run needed beyond what client and server measured",
}


def definitions() -> str:
    """A definition list."""
    rows = (
        f"<dt>{escape(term)}</dt><dd>{escape(what)}</dd>" for term, what in _DEFINITIONS.items()
    )
    return f"<dl>{''.join(rows)}</dl>"
