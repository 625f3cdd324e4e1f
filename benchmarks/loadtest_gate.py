"""How often the gate of the load test is wrong: false alarms, and regressions that it misses.

Pairs of simulated runs of one stream, with noise, slow drift and stalls, are judged by
`tpot_p95:+5%` and `tpot_mean:+5%`, once unchanged and once with a TPOT that is 5 % longer.

    python benchmarks/loadtest_gate.py [--pairs 100] [--requests 1200]
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for tests.support

from lorry_loadtest.gate.gate import judge_gate
from lorry_loadtest.gate.limit import parse_gate
from tests.support.simulated_pairs import simulated_pair


def outcomes(gate: str, *, num_pairs: int, num_requests: int, slower: float) -> Counter[str]:
    """How often each status was given."""
    limits = parse_gate(gate)
    found: Counter[str] = Counter()
    for seed in range(num_pairs):
        baseline, candidate = simulated_pair(seed, num_requests=num_requests, slower=slower)
        found[judge_gate(baseline, candidate, limits)[0].status] += 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--requests", type=int, default=1200)
    arguments = parser.parse_args()
    print(f"{arguments.pairs} pairs of {arguments.requests} requests each")
    print(f"{'gate':<16}{'true change':>12}{'pass':>8}{'regression':>12}{'undecided':>11}")
    for gate in ("tpot_mean:+5%", "tpot_p95:+5%"):
        for slower in (0.0, 0.05, 0.10):
            found = outcomes(
                gate,
                num_pairs=arguments.pairs,
                num_requests=arguments.requests,
                slower=slower,
            )
            print(
                f"{gate:<16}{slower:>12.0%}{found['pass']:>8}{found['regression']:>12}"
                f"{found['undecided']:>11}"
            )


if __name__ == "__main__":
    main()
