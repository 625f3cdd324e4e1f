"""What puts the figures of a point in doubt, and what one has to know about them: as sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lorry.distribution import Distribution, format_seconds, quantile, samples_needed
from lorry.sweep.confidence import standard_error
from lorry.sweep.point import PointSetting, RequestRecord

# what the client adds may be at most this part of what is measured
_NOTICEABLE = 0.1
_BUSY_CORE = 0.9
_FEWEST_PER_HALF = 10
_FEWEST_RECORDS = samples_needed(0.5)
_DRIFT_ERRORS = 3.0
_MESSAGE_CHARS = 120


def cautions(
    records: Sequence[RequestRecord],
    *,
    setting: PointSetting,
    loop_lag: Distribution,
    client_cpu_share: float,
    max_in_flight: int,
) -> tuple[str, ...]:
    """Why the figures are not to be trusted; none, if nothing was seen."""
    attempted = [record for record in records if record.phase == "measured"]
    measured = [record for record in attempted if record.error is None]
    ttft_s = _median(measured, lambda record: record.ttft_s)
    found = [
        _failures(attempted),
        _few(measured),
        _client_lag(loop_lag, ttft_s),
        _client_cpu(client_cpu_share),
        _client_queue(measured, ttft_s),
        _lateness(measured, ttft_s),
        _idle_slots(setting, max_in_flight),
        drift("time to first token", [record.ttft_from_intended_s for record in measured]),
        drift("time per output token", [record.tpot_s for record in measured]),
    ]
    return tuple(sentence for sentence in found if sentence is not None)


def remarks(records: Sequence[RequestRecord]) -> tuple[str, ...]:
    """What the requests were, where it is not what was asked for."""
    measured = [r for r in records if r.phase == "measured" and r.error is None]
    found = [_cached(measured), _ended_early(measured)]
    return tuple(sentence for sentence in found if sentence is not None)


def drift(name: str, values: Sequence[float | None]) -> str | None:
    """Whether the second half differs from the first: by more than 5 % and three standard errors.

    `values` are in the order of the requests' starts. The error is that of Welch's test.
    """
    known = [value for value in values if value is not None]
    half = len(known) // 2
    first, second = known[:half], known[len(known) - half :]
    if half < _FEWEST_PER_HALF:
        return None
    before, after = math.fsum(first) / half, math.fsum(second) / half
    error = math.hypot(standard_error(first), standard_error(second))
    if abs(after - before) <= max(_DRIFT_ERRORS * error, 0.05 * before):
        return None
    return (
        f"{name} drifted, from {format_seconds(before)} in the first half to "
        f"{format_seconds(after)} in the second: the load was not steady"
    )


def _failures(attempted: Sequence[RequestRecord]) -> str | None:
    failed = [record for record in attempted if record.error is not None]
    if not failed:
        return None
    errors = [str(record.error) for record in failed]
    kinds = ", ".join(f"{errors.count(kind)} {kind}" for kind in sorted(set(errors)))
    return (
        f"{len(failed)} of {len(attempted)} requests failed ({kinds}; the first: "
        f"{_shortened(failed[0].error_message or 'no message')}); latencies are of the others"
    )


def _shortened(message: str) -> str:
    return message if len(message) <= _MESSAGE_CHARS else f"{message[: _MESSAGE_CHARS - 1]}…"


def _few(measured: Sequence[RequestRecord]) -> str | None:
    if len(measured) >= _FEWEST_RECORDS:
        return None
    return f"too few requests for a median: {len(measured)} of the {_FEWEST_RECORDS} that it needs"


def _client_lag(loop_lag: Distribution, ttft_s: float | None) -> str | None:
    # one late moment among hundreds moves no percentile that is shown
    known = (loop_lag.p99, loop_lag.p95, loop_lag.max)
    worst = next((lag_s for lag_s in known if lag_s is not None), None)
    if worst is None or ttft_s is None or worst <= _NOTICEABLE * ttft_s:
        return None
    return (
        f"this client's event loop was late at times, by {format_seconds(worst)} beside a time to "
        f"first token of {format_seconds(ttft_s)}: it measured itself"
    )


def _client_cpu(share: float) -> str | None:
    if share <= _BUSY_CORE:
        return None
    return f"this client used {share:.0%} of a core: it may have been slower than the server"


def _client_queue(measured: Sequence[RequestRecord], ttft_s: float | None) -> str | None:
    queue_s = _median(measured, lambda record: record.queue_s)
    if queue_s is None or ttft_s is None or queue_s <= _NOTICEABLE * ttft_s:
        return None
    return (
        f"requests waited {format_seconds(queue_s)} in this client: its own limit is below the load"
    )


def _lateness(measured: Sequence[RequestRecord], ttft_s: float | None) -> str | None:
    late_s = _median(measured, lambda record: record.lateness_s)
    if late_s is None or ttft_s is None or late_s <= _NOTICEABLE * ttft_s:
        return None
    return f"requests went out {format_seconds(late_s)} after their time: the rate was not kept"


def _idle_slots(setting: PointSetting, max_in_flight: int) -> str | None:
    if setting.concurrency is None or max_in_flight >= setting.concurrency:
        return None
    return f"only {max_in_flight} of {setting.concurrency} requests were ever in flight"


def _cached(measured: Sequence[RequestRecord]) -> str | None:
    num_prompt = sum(record.prompt_tokens or 0 for record in measured)
    num_cached = sum(record.cached_tokens or 0 for record in measured)
    if num_cached <= _NOTICEABLE * num_prompt:
        return None
    return f"{num_cached / num_prompt:.0%} of the prompt tokens came from the server's prefix cache"


def _ended_early(measured: Sequence[RequestRecord]) -> str | None:
    num_early = sum(record.finish_reason != "length" for record in measured)
    if num_early <= _NOTICEABLE * len(measured):
        return None
    return (
        f"{num_early} of {len(measured)} answers ended before max_tokens; ignore_eos=True makes "
        "all of them as long as was asked for"
    )


def _median(
    records: Sequence[RequestRecord], value_of: Callable[[RequestRecord], float | None]
) -> float | None:
    values = [value for record in records if (value := value_of(record)) is not None]
    return quantile(sorted(values), 0.5) if values else None
