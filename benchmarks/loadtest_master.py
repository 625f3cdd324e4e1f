"""What a master's CPU is while four workers make load together: it should have little to do.

    python benchmarks/loadtest_master.py --workers 4 --rate 200 --seconds 20

Starts a mock server, a master and workers of locust with the scenario `open_loop_poisson`, and reads
the master's CPU time out of /proc while they run. `--rate` is requests per second of each worker.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lorry_loadtest.calibration import mock_process

_SETTLE_S = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=200.0, help="requests/s of each worker")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--tokens", type=int, default=4, help="of each answer")
    options = parser.parse_args()
    with (
        mock_process("--first-ms", "20", "--gap-ms", "5") as url,
        tempfile.TemporaryDirectory() as folder,
    ):
        share, num_records = measure(url, Path(folder), options)
    print(
        f"master: {share:.1%} of a core with {options.workers} workers x {options.rate:g} requests/s "
        f"({num_records} records)"
    )


def measure(url: str, folder: Path, options: argparse.Namespace) -> tuple[float, int]:
    """The master's share of a core while the load was on, and how many records it gathered."""
    scenario = Path(__file__).parents[1] / "loadtest/lorry_loadtest/scenarios/open_loop_poisson.py"
    common = [sys.executable, "-m", "locust", "-f", str(scenario), "--host", url]
    load = [
        *("--arrival", f"poisson:{options.rate * options.workers:g}"),
        *("--max-tokens", str(options.tokens), "--prompt-words", "8"),
    ]
    port = ["--master-port", "5597"]
    workers = [
        subprocess.Popen(
            [*common, *load, "--worker", *port],
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        for _ in range(options.workers)
    ]
    with (folder / "log").open("wb") as log:
        master = subprocess.Popen(
            [
                *common,
                *load,
                *("--master", *port, "--master-bind-port", "5597", "--headless"),
                *("--expect-workers", str(options.workers), "-u", str(options.workers), "-r", "99"),
                *("-t", f"{options.seconds + 2 * _SETTLE_S:.0f}s", "--stop-timeout", "10"),
                *("--llm-report", str(folder / "out"), "--no-calibration", "--only-summary"),
            ],
            stderr=log,
            stdout=log,
        )
        wait_for(folder / "log", "All users spawned")
        time.sleep(_SETTLE_S)
        before_s = cpu_s(master.pid)
        time.sleep(options.seconds)
        share = (cpu_s(master.pid) - before_s) / options.seconds
        master.wait()
    for worker in workers:
        worker.wait()
    with (folder / "out" / "records.jsonl").open("rb") as records:
        return share, sum(1 for _ in records)


def wait_for(log: Path, words: str) -> None:
    deadline_s = time.monotonic() + 60
    while words not in log.read_text():
        if time.monotonic() > deadline_s:
            raise SystemExit(f"the test did not begin: {log.read_text()}")
        time.sleep(0.1)


def cpu_s(pid: int) -> float:
    """User and system time of a process, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
