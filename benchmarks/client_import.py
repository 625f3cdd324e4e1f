"""What `import lorry` costs: CPU time and memory beyond a bare Python, the best of several processes.

    python benchmarks/client_import.py [--repeats N]

CPU time is of the process, not the wall; memory is its resident set (`VmRSS`, Linux).
"""

from __future__ import annotations

import argparse
import subprocess
import sys

STATEMENTS = {
    "bare Python": "",
    "import asyncio": "import asyncio",
    "import lorry": "import lorry",
    "lorry.AsyncClient, ready to send": (
        "import asyncio, lorry\n"
        "async def enter():\n"
        "    async with lorry.AsyncClient('http://127.0.0.1:1'): pass\n"
        "asyncio.run(enter())"
    ),
}

# it imports nothing that a bare Python has not got
MEASURE = """
import sys, time
cpu_s = time.process_time()
with open("/proc/self/status") as status:
    fields = dict(line.split(":", 1) for line in status)
print(cpu_s, int(fields["VmRSS"].split()[0]) / 1024, len(sys.modules))
"""


def measure(statement: str, *, repeats: int) -> tuple[float, float, int]:
    """The least CPU seconds, the least MiB, and the number of modules."""
    runs = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-c", f"{statement}\n{MEASURE}"],
            capture_output=True,
            text=True,
            check=True,
        )
        runs.append([float(figure) for figure in done.stdout.split()])
    return min(run[0] for run in runs), min(run[1] for run in runs), int(runs[0][2])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeats", type=int, default=7, metavar="N")
    repeats = parser.parse_args().repeats
    measure("import lorry", repeats=1)  # so that all is compiled
    base: tuple[float, float, int] | None = None
    for name, statement in STATEMENTS.items():
        cpu_s, rss_mib, num_modules = measure(statement, repeats=repeats)
        base = base or (cpu_s, rss_mib, num_modules)
        print(
            f"{name:<34} {1000 * (cpu_s - base[0]):7.1f} ms CPU  {rss_mib - base[1]:6.1f} MiB  "
            f"{num_modules - base[2]:4d} modules beyond bare Python"
        )


if __name__ == "__main__":
    main()
