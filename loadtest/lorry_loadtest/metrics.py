"""The definitions: what each latency of one attempt is, in milliseconds.

Written for a request with send stamps, token stamps c_1..c_M and k_j tokens in event j; N is the
number of tokens. The clock starts at `t_sched`, when the user became ready to send, so that the
client's own lateness is inside the figures that a user would feel.
"""

from __future__ import annotations

from itertools import pairwise

from lorry_loadtest.records import RequestRecord

NS_PER_MS = 1e6


def ttft_ms(record: RequestRecord) -> float | None:
    """Time to first token, c_1 - t_sched; None when no token came."""
    stamps = record.event_ns
    return (stamps[0] - record.t_sched_ns) / NS_PER_MS if stamps else None


def ttft_service_ms(record: RequestRecord) -> float | None:
    """c_1 - t_send: the same without the client's lateness, comparable with other tools."""
    stamps = record.event_ns
    if not stamps or record.t_send_ns is None:
        return None
    return (stamps[0] - record.t_send_ns) / NS_PER_MS


def lag_ms(record: RequestRecord) -> float | None:
    """t_send - t_sched: connecting and the client's lateness."""
    if record.t_send_ns is None:
        return None
    return (record.t_send_ns - record.t_sched_ns) / NS_PER_MS


def tpot_ms(record: RequestRecord) -> float | None:
    """Time per output token after the first event, (c_M - c_1) / (N - k_1).

    None, never 0, when all tokens came in one event.
    """
    stamps = record.event_ns
    if len(stamps) < 2:
        return None
    num_later_tokens = record.completion_tokens - record.event_tokens[0]
    if num_later_tokens <= 0:
        return None
    return (stamps[-1] - stamps[0]) / NS_PER_MS / num_later_tokens


def e2e_ms(record: RequestRecord) -> float | None:
    """End to end, c_M - t_sched: until the last token, not until the stream's end."""
    stamps = record.event_ns
    return (stamps[-1] - record.t_sched_ns) / NS_PER_MS if stamps else None


def max_gap_ms(record: RequestRecord) -> float | None:
    """The longest pause between two events; None for answers of one event."""
    return max(chunk_gaps_ms(record), default=None)


def chunk_gaps_ms(record: RequestRecord) -> list[float]:
    """c_j - c_(j-1) for each event after the first, to be pooled over requests."""
    stamps = record.event_ns
    return [(later - earlier) / NS_PER_MS for earlier, later in pairwise(stamps)]


def duration_ms(record: RequestRecord) -> float:
    """From t_sched to the end of the attempt, however it ended."""
    return (record.t_end_ns - record.t_sched_ns) / NS_PER_MS


def connect_ms(record: RequestRecord) -> float:
    """t_conn - t_begin on a connection of its own, 0 on one that was used before.

    What the client was late before it began is not the connection's.
    """
    if record.t_conn_ns is None:
        return 0.0
    begin_ns = record.t_sched_ns if record.t_begin_ns is None else record.t_begin_ns
    return (record.t_conn_ns - begin_ns) / NS_PER_MS


def delivery_ms(record: RequestRecord) -> list[float]:
    """u_j - c_j of each event: from the kernel to this program. Empty without kernel stamps."""
    return [
        (user_ns - kernel_ns) / NS_PER_MS
        for kernel_ns, user_ns in zip(record.event_kernel_ns, record.event_user_ns, strict=False)
    ]


def num_tokens_between(record: RequestRecord, start_ns: int, end_ns: int) -> int:
    """Tokens whose event arrived in [start_ns, end_ns)."""
    return sum(
        num_tokens
        for stamp_ns, num_tokens in zip(record.event_ns, record.event_tokens, strict=True)
        if start_ns <= stamp_ns < end_ns
    )


def tokens_disagree(record: RequestRecord) -> bool:
    """Whether the server's count of a finished request differs from what its events carried."""
    return record.outcome == "ok" and record.completion_tokens != sum(record.event_tokens)
