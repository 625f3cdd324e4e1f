"""`lorry loadtest calibrate`: this client's own error, on this machine."""

from __future__ import annotations

import argparse
import sys
from array import array
from collections.abc import Sequence

from lorry_loadtest.arrivals import parse_arrival
from lorry_loadtest.calibration import (
    FIRST_MS,
    GAP_MS,
    calibrate_against,
    calibration_line,
    mock_process,
)
from lorry_loadtest.endpoint import parse_endpoint
from lorry_loadtest.http_get import GetFailed


def calibrate_main(argv: Sequence[str]) -> int:
    """0 with the error printed, 1 when it could not be measured, 2 for wrong use."""
    parser = argparse.ArgumentParser(
        prog="lorry loadtest calibrate",
        description="Measures how wrong this client's stamps are on this machine, against a mock "
        "server whose token times are known.",
    )
    parser.add_argument(
        "--arrival",
        default="constant:20",
        metavar="ARRIVAL",
        help="as of a run (default: %(default)s)",
    )
    parser.add_argument("--duration", type=float, default=5.0, metavar="S", help="%(default)s")
    parser.add_argument("--tokens", type=int, default=40, metavar="N", help="of each answer")
    namespace = parser.parse_args(argv)
    try:
        if not 0 < namespace.duration <= 3600 or not 1 <= namespace.tokens <= 10_000:
            raise ValueError("--duration is over 0 to 3600 seconds, --tokens from 1 to 10000")
        times = parse_arrival(namespace.arrival).times_s(seed=1, until_s=namespace.duration)
        times_ns = array("q", (round(t_s * 1e9) for t_s in times))
        if not times_ns:
            raise ValueError(f"no request arrives within {namespace.duration:g} s")
    except (ValueError, OSError) as exc:
        parser.error(str(exc))
    try:
        with mock_process("--first-ms", str(FIRST_MS), "--gap-ms", str(GAP_MS)) as url:
            found = calibrate_against(parse_endpoint(url), times_ns, num_tokens=namespace.tokens)
    except (OSError, GetFailed, RuntimeError) as exc:
        print(f"lorry loadtest calibrate: {exc}", file=sys.stderr)
        return 1
    print(calibration_line(found))
    print(
        f"{found.num_events} events of {found.num_requests} requests; by a client without kernel "
        f"stamps: TTFT {found.user_ttft_error_p99_ms:.3f} ms, gap "
        f"{found.user_gap_error_p99_ms:.3f} ms; schedule lag p99 {found.lag_p99_ms:.3f} ms"
    )
    return 0
